"""TFDS's prepared data from array_record to tfrecord, without TensorFlow."""

import json
import struct

POLYNOMIAL = 0x82F63B78


def _of_byte(value):
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


TABLE = [_of_byte(value) for value in range(256)]


def crc32c(content):
    register = 0xFFFFFFFF
    for byte in content:
        register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


def masked(content):
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(records):
    """The content of a TFRecord file."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", masked(length)), record, struct.pack("<I", masked(record))]
    return b"".join(parts)


def to_tfrecord(data_dir):
    """Rewrite all prepared data below a folder."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for shard in list(data_dir.rglob("*.array_record*")):
        with ArrayRecordDataSource([str(shard)]) as source:
            records = [source[index] for index in range(len(source))]
        shard.with_name(shard.name.replace(".array_record", ".tfrecord")).write_bytes(framed(records))
        shard.unlink()
    for path in data_dir.rglob("dataset_info.json"):
        info = json.loads(path.read_text(encoding="utf-8"))
        assert info["fileFormat"] == "array_record"
        path.write_text(json.dumps(info | {"fileFormat": "tfrecord"}), encoding="utf-8")
