"""Input topics in Avro and Protobuf: schemas from a registry, and values as they describe them."""
