//! The program's memory: what it was given, and where.

use abi::{PAGE_SIZE, Rights, Status};
use rt::shared::SharedMemory;

const PAGE: u64 = PAGE_SIZE as u64;

/// Most ranges of memory that a program can have.
pub const REGIONS: usize = 32;

/// Where `mmap` looks for free addresses: the ranges that it gives follow each other.
pub const MMAP: core::ops::Range<u64> = 0x10_0000_0000..0x20_0000_0000;

/// Gives memory to the program.
pub trait Backing {
    /// Maps `size` bytes at `offset` of the server's memory at `address` of the program. `number` is that of the range, below
    /// [`REGIONS`].
    fn map(
        &mut self,
        number: usize,
        offset: u64,
        address: u64,
        size: u64,
        rights: Rights,
    ) -> Result<(), Status>;
}

/// A range of the program's addresses.
#[derive(Clone, Copy, Debug)]
struct Region {
    address: u64,
    size: u64,
    offset: u64,
    rights: Rights,
}

/// Why the program gets no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMemory {
    /// The range is empty, misaligned, not a program's, or in use.
    BadRange,
    /// The server's memory, or its list of ranges, is used up.
    Full,
    /// The kernel's answer: the quota of the program's domain.
    Kernel(Status),
}

/// The program's memory.
#[derive(Debug)]
pub struct Process {
    regions: [Option<Region>; REGIONS],
    memory: SharedMemory,
    /// What of the memory is not given away, from here to its end.
    free: u64,
    next_mapping: u64,
}

impl Process {
    /// A program without memory, that can get all of `memory`.
    pub fn new(memory: SharedMemory) -> Process {
        Process { regions: [None; REGIONS], memory, free: 0, next_mapping: MMAP.start }
    }

    fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().flatten()
    }

    /// Gives the program `size` bytes at `address`, rounded up to whole pages: empty but for `contents`, which
    /// begin at `lead` of the first page.
    pub fn add(
        &mut self,
        address: u64,
        size: u64,
        rights: Rights,
        (lead, contents): (usize, &[u8]),
        backing: &mut impl Backing,
    ) -> Result<(), NoMemory> {
        // Smaller than what is left, so that rounding up does not overflow.
        if size > self.memory.size() as u64 - self.free {
            return Err(NoMemory::Full);
        }
        let size = size.next_multiple_of(PAGE);
        let end = address.checked_add(size).ok_or(NoMemory::BadRange)?;
        let overlaps = |r: &Region| address < r.address + r.size && r.address < end;
        let valid = size != 0 && address.is_multiple_of(PAGE) && address != 0;
        if !valid || end > abi::USER_END || self.regions().any(overlaps) {
            return Err(NoMemory::BadRange);
        }
        let number = self.regions.iter().position(Option::is_none);
        let number = number.ok_or(NoMemory::Full)?;
        let offset = self.free;
        if size > self.memory.size() as u64 - offset {
            return Err(NoMemory::Full);
        }
        let at = offset as usize;
        let fits = lead.checked_add(contents.len()).is_some_and(|end| end <= size as usize);
        if !fits {
            return Err(NoMemory::BadRange);
        }
        // In range, as checked.
        let _ = self.memory.zero(at, size as usize);
        let _ = self.memory.write(at + lead, contents);
        if rights.contains(Rights::EXEC) {
            let code = self.memory.address() + at;
            rt::arch::make_executable(code..code + size as usize);
        }
        backing.map(number, offset, address, size, rights).map_err(NoMemory::Kernel)?;
        self.free += size;
        self.regions[number] = Some(Region { address, size, offset, rights });
        Ok(())
    }

    /// The same at an address that is free; returns it. Addresses are not used again.
    pub fn add_anywhere(
        &mut self,
        size: u64,
        rights: Rights,
        backing: &mut impl Backing,
    ) -> Result<u64, NoMemory> {
        let address = self.next_mapping;
        if size > MMAP.end - address {
            return Err(NoMemory::Full);
        }
        self.add(address, size, rights, (0, &[]), backing)?;
        // A page that is not mapped follows.
        self.next_mapping += size.next_multiple_of(PAGE) + PAGE;
        Ok(address)
    }

    /// Whether all of a range is the program's.
    pub fn holds(&self, address: u64, size: u64) -> bool {
        self.pieces(address, size).all(|piece| piece.is_some())
    }

    /// Takes each byte of a range, if all of it is the program's; else none.
    pub fn read(&self, address: u64, size: u64, mut take: impl FnMut(u8)) -> bool {
        if !self.holds(address, size) {
            return false;
        }
        for (offset, size) in self.pieces(address, size).flatten() {
            let mut bytes = [0; 64];
            for at in (0..size).step_by(bytes.len()) {
                let count = (size - at).min(bytes.len() as u64) as usize;
                // Inside a region, as `pieces` says.
                let _ = self.memory.read((offset + at) as usize, &mut bytes[..count]);
                bytes[..count].iter().copied().for_each(&mut take);
            }
        }
        true
    }

    /// Where the parts of a range are in the server's memory, and how large; `None` where the program has nothing, as
    /// the last one.
    fn pieces(&self, address: u64, size: u64) -> impl Iterator<Item = Option<(u64, u64)>> {
        let mut rest = Some((address, size));
        core::iter::from_fn(move || {
            let (at, left) = rest.take().filter(|&(_, left)| left != 0)?;
            let region = self
                .regions()
                .find(|r| r.rights.contains(Rights::READ) && at.wrapping_sub(r.address) < r.size);
            let Some(region) = region else {
                return Some(None);
            };
            let inside = at - region.address;
            let count = left.min(region.size - inside);
            rest = Some((at + count, left - count));
            Some(Some((region.offset + inside, count)))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Mappings that succeed, up to a number.
    pub struct Mappings(pub usize);

    impl Backing for Mappings {
        fn map(
            &mut self,
            number: usize,
            offset: u64,
            address: u64,
            size: u64,
            _rights: Rights,
        ) -> Result<(), Status> {
            assert!(number < REGIONS);
            assert_eq!((offset | address | size) % PAGE, 0);
            self.0 = self.0.checked_sub(1).ok_or(Status::Quota)?;
            Ok(())
        }
    }

    /// A program that can have `pages` pages.
    pub fn process(pages: usize) -> Process {
        let memory = Box::leak(vec![0xaau64; pages * PAGE_SIZE / 8].into_boxed_slice());
        // SAFETY: the memory is leaked for this purpose.
        Process::new(unsafe {
            SharedMemory::new(memory.as_mut_ptr() as usize, size_of_val(memory))
        })
    }

    fn bytes(process: &Process, address: u64, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        process.read(address, size, |byte| bytes.push(byte)).then_some(bytes)
    }

    #[test]
    fn a_program_has_what_it_was_given_and_nothing_else() {
        let (mut process, mut mappings) = (process(8), Mappings(99));
        let mut add = |address, size, contents: (usize, &[u8])| {
            process.add(address, size, Rights::RW, contents, &mut mappings)
        };
        assert_eq!(add(0x40_0000, 5000, (4090, b"across pages")), Ok(()));
        assert_eq!(add(0x40_2000, 1, (0, b"!")), Ok(()));
        for (address, size) in [
            (0x40_1000, 1),
            (0x3f_f000, 0x10_00 + 1),
            (0x40_3001, 1),
            (0, 1),
            (0x50_0000, 0),
            (abi::USER_END, 1),
            (u64::MAX - 4095, 1),
        ] {
            assert_eq!(add(address, size, (0, b"")), Err(NoMemory::BadRange));
        }
        for size in [6 * PAGE, u64::MAX, u64::MAX - 4094] {
            assert_eq!(add(0x60_0000, size, (0, b"")), Err(NoMemory::Full));
        }
        assert_eq!(add(0x60_0000, 1, (1, &[1; 4096])), Err(NoMemory::BadRange));
        let text = bytes(&process, 0x40_0000 + 4090, 12);
        assert_eq!(text.as_deref(), Some(&b"across pages"[..]));
        // Ranges beside each other are one; what is new is empty.
        assert_eq!(bytes(&process, 0x40_1fff, 2), Some(vec![0, b'!']));
        for (address, size) in [
            (0x3f_ffff, 2),
            (0x40_2fff, 2),
            (0x40_0000, u64::MAX),
            (0x40_0000, 1 << 63),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
            (0, 1),
        ] {
            assert_eq!(bytes(&process, address, size), None);
        }
        assert_eq!(bytes(&process, 0, 0), Some(vec![]));
    }

    #[test]
    fn memory_and_mappings_come_to_an_end() {
        let (mut process, mut mappings) = (process(2 * REGIONS), Mappings(REGIONS));
        let mut last = 0;
        for _ in 0..REGIONS {
            let address = process.add_anywhere(1, Rights::RW, &mut mappings);
            assert!(MMAP.contains(&address.unwrap()) && address.unwrap() > last);
            last = address.unwrap();
        }
        let full = process.add_anywhere(1, Rights::RW, &mut mappings);
        assert_eq!(full, Err(NoMemory::Full));
        let (mut process, mut none) = (self::process(2), Mappings(0));
        let answer = process.add_anywhere(1, Rights::RW, &mut none);
        assert_eq!(answer, Err(NoMemory::Kernel(Status::Quota)));
        // What could not be mapped is still free.
        let mut some = Mappings(1);
        assert!(process.add_anywhere(2 * PAGE, Rights::RW, &mut some).is_ok());
    }
}
