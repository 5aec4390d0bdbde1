//! Head of the boot bundle: what the kernel has to know of it to start the root task.
//!
//! The bundle is one page-aligned blob. It starts with a [`Head`]; everything behind the head that is
//! not the root task belongs to the root task (crate `bulkhead-image`). All numbers are little-endian.
//! Segments are page-aligned, padded with zeros to whole pages and include the program's
//! zero-initialised data, so that they can be mapped where they lie.

use crate::text::Dec;

/// `"BLKHDBDL"`.
pub const MAGIC: [u8; 8] = *b"BLKHDBDL";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Most segments of the root task.
pub const MAX_SEGMENTS: usize = 8;
/// Bytes in an encoded head.
pub const HEAD_SIZE: usize = 64 + MAX_SEGMENTS * 32;

static CRC: crc::Crc<u32, crc::NoTable> = crc::Crc::<u32, crc::NoTable>::new(&crc::CRC_32_ISO_HDLC);

/// CRC-32 (ISO-HDLC, as in gzip) of `bytes`, without a table: the kernel is small, and so is what it sums.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// A segment of a program: whole pages, mapped where they lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Virtual address, page-aligned.
    pub address: u64,
    /// Offset in the bundle, page-aligned.
    pub offset: u64,
    /// Size in bytes, page-aligned, not zero.
    pub size: u64,
    /// [`crate::Rights`] bits: `READ`, `WRITE`, `EXEC`; never `WRITE` and `EXEC` together.
    pub rights: u32,
}

/// The decoded head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Size of the whole bundle in bytes.
    pub total_size: u64,
    /// Offset and size of the root task's directory, with its checksum.
    pub directory: Extent,
    /// The root task's entry point.
    pub entry: u64,
    /// Number of `segments`.
    pub segment_count: u32,
    /// CRC-32 over the root task's segments, in order.
    pub root_checksum: u32,
    /// The root task's segments.
    pub segments: [Segment; MAX_SEGMENTS],
}

/// A part of the bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the bundle.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32 of the part.
    pub checksum: u32,
}

/// Why a bundle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Fewer bytes than a head, or than the head says.
    Truncated,
    /// The magic bytes are not there.
    BadMagic,
    /// Made by another version of the tools.
    BadVersion(u32),
    /// The head or the root task was changed after packing.
    BadChecksum,
    /// An offset, size, address or right breaks the format's rules.
    BadSegment(u32),
}

impl core::fmt::Display for BundleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BundleError::Truncated => f.write_str("the bundle is truncated"),
            BundleError::BadMagic => f.write_str("this is no Bulkhead bundle (wrong magic)"),
            BundleError::BadVersion(v) => {
                let (v, known) = (Dec((*v).into()), Dec(VERSION.into()));
                write!(f, "bundle format {v}, this kernel reads {known}: pack it again")
            }
            BundleError::BadChecksum => {
                f.write_str("the bundle's checksum is wrong: it was damaged")
            }
            BundleError::BadSegment(i) => {
                write!(f, "segment {} of the root task is invalid", Dec((*i).into()))
            }
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

impl Head {
    /// Encodes the head with its checksum.
    pub fn encode(&self) -> [u8; HEAD_SIZE] {
        let mut out = [0; HEAD_SIZE];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // 12..16: checksum, filled in last.
        out[16..24].copy_from_slice(&self.total_size.to_le_bytes());
        out[24..32].copy_from_slice(&self.directory.offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.directory.size.to_le_bytes());
        out[40..44].copy_from_slice(&self.directory.checksum.to_le_bytes());
        out[44..48].copy_from_slice(&self.segment_count.to_le_bytes());
        out[48..56].copy_from_slice(&self.entry.to_le_bytes());
        out[56..60].copy_from_slice(&self.root_checksum.to_le_bytes());
        for (segment, raw) in self.segments.iter().zip(out[64..].chunks_exact_mut(32)) {
            raw[0..8].copy_from_slice(&segment.address.to_le_bytes());
            raw[8..16].copy_from_slice(&segment.offset.to_le_bytes());
            raw[16..24].copy_from_slice(&segment.size.to_le_bytes());
            raw[24..28].copy_from_slice(&segment.rights.to_le_bytes());
        }
        let sum = checksum(&out);
        out[12..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Decodes and validates the head of a bundle of which `available` bytes exist; `bytes` holds
    /// at least the head. Whatever it returns can be used without further checks of ranges.
    pub fn decode(bytes: &[u8], available: u64) -> Result<Head, BundleError> {
        let Some(bytes) = bytes.first_chunk::<HEAD_SIZE>() else {
            return Err(BundleError::Truncated);
        };
        if bytes[0..8] != MAGIC {
            return Err(BundleError::BadMagic);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(BundleError::BadVersion(version));
        }
        // The checksum itself counts as 0.
        let mut digest = Digest::new();
        for part in [&bytes[..12], &[0; 4], &bytes[16..]] {
            digest.update(part);
        }
        if digest.finish() != u32_at(bytes, 12) {
            return Err(BundleError::BadChecksum);
        }
        let mut head = Head {
            total_size: u64_at(bytes, 16),
            directory: Extent {
                offset: u64_at(bytes, 24),
                size: u64_at(bytes, 32),
                checksum: u32_at(bytes, 40),
            },
            entry: u64_at(bytes, 48),
            segment_count: u32_at(bytes, 44),
            root_checksum: u32_at(bytes, 56),
            segments: [Segment::default(); MAX_SEGMENTS],
        };
        let (total, count) = (head.total_size, head.segment_count);
        if total > available {
            return Err(BundleError::Truncated);
        }
        let inside = |offset: u64, size: u64| {
            offset >= HEAD_SIZE as u64 && offset.checked_add(size).is_some_and(|end| end <= total)
        };
        if !inside(head.directory.offset, head.directory.size) {
            return Err(BundleError::Truncated);
        }
        if count == 0 || count as usize > MAX_SEGMENTS {
            return Err(BundleError::BadSegment(count));
        }
        let places = head.segments.iter_mut().zip(bytes[64..].chunks_exact(32));
        for (i, (segment, raw)) in (0..count).zip(places) {
            *segment = Segment {
                address: u64_at(raw, 0),
                offset: u64_at(raw, 8),
                size: u64_at(raw, 16),
                rights: u32_at(raw, 24),
            };
            if !inside(segment.offset, segment.size) || !segment.is_valid() {
                return Err(BundleError::BadSegment(i));
            }
        }
        Ok(head)
    }

    /// The root task's segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.segment_count as usize]
    }
}

impl Segment {
    /// Whether address, offset, size and rights keep the rules of the format.
    pub fn is_valid(&self) -> bool {
        let page = crate::PAGE_SIZE as u64 - 1;
        let (w, x) = (crate::Rights::WRITE.bits() as u32, crate::Rights::EXEC.bits() as u32);
        let known = (crate::Rights::RW | crate::Rights::EXEC).bits() as u32;
        (self.address | self.offset | self.size) & page == 0
            && self.size != 0
            && self.address != 0
            && self.address.checked_add(self.size).is_some_and(|end| end <= crate::USER_END)
            && self.rights & !known == 0
            && self.rights & crate::Rights::READ.bits() as u32 != 0
            && self.rights & (w | x) != (w | x)
    }
}

/// A CRC-32 over several parts, as [`checksum`] computes it over one.
pub struct Digest(crc::Digest<'static, u32, crc::NoTable>);

impl Digest {
    /// Nothing summed yet.
    pub fn new() -> Digest {
        Digest(CRC.digest())
    }

    /// Adds a part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Digest {
    fn default() -> Digest {
        Digest::new()
    }
}
