//! How segments, which belong to the ABI, are written in the directory.

use abi::bundle::Segment;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Record = (u64, u64, u64, u32);

pub fn serialize<S: Serializer>(segments: &[Segment], serializer: S) -> Result<S::Ok, S::Error> {
    let records: Vec<Record> =
        segments.iter().map(|s| (s.address, s.offset, s.size, s.rights)).collect();
    records.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Segment>, D::Error> {
    let records = Vec::<Record>::deserialize(deserializer)?;
    let segment = |(address, offset, size, rights)| Segment { address, offset, size, rights };
    Ok(records.into_iter().map(segment).collect())
}
