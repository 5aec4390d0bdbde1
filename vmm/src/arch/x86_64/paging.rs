//! The guest's own page tables: linear to guest-physical addresses (Intel SDM 3A 4).
//!
//! The processor has walked them already for the access that caused an exit; this walker is for what the
//! monitor does in the guest's name: fetching the instruction, and the memory operands of string I/O.
//! Protection keys and SMAP are not tested: they restrict a kernel's mistakes, not its reach.
use crate::arch::x86_64::state::StatePage;
use crate::memory::{GuestPhys, GuestRam, NotRam};

/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.WP.
const CR0_WP: u64 = 1 << 16;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PSE.
const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57.
const CR4_LA57: u64 = 1 << 12;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of an entry of 8 bytes.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Times that a walk is begun anew, as another vCPU has changed an entry.
const WALKS: u32 = 64;

/// What an access is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// At privilege level 3.
    pub user: bool,
    /// An instruction fetch.
    pub fetch: bool,
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest's tables do not allow it: #PF with this error code.
    Fault(u32),
    /// The address is not canonical: #GP.
    NotCanonical,
    /// A table does not lie in RAM.
    TablesNotRam,
    /// Other vCPUs change the tables all the time.
    Unsteady,
}

impl From<NotRam> for WalkError {
    fn from(_: NotRam) -> WalkError {
        WalkError::TablesNotRam
    }
}

/// The registers that say how linear addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Shape of the tables.
struct Shape {
    levels: u32,
    /// log2 of the entries per table.
    bits: u32,
    entry_bytes: u64,
}

impl Paging {
    /// As the state page says; needs group `CONTROL`.
    pub fn of(state: &StatePage) -> Paging {
        Paging { cr0: state.cr0(), cr3: state.cr3(), cr4: state.cr4(), efer: state.efer() }
    }

    /// Whether the processor is in long mode.
    pub fn long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    fn shape(&self) -> Shape {
        let (levels, bits, entry_bytes) = match (self.long_mode(), self.cr4 & CR4_PAE != 0) {
            (true, _) if self.cr4 & CR4_LA57 != 0 => (5, 9, 8),
            (true, _) => (4, 9, 8),
            (false, true) => (3, 9, 8),
            (false, false) => (2, 10, 4),
        };
        Shape { levels, bits, entry_bytes }
    }

    fn root(&self) -> u64 {
        match (self.long_mode(), self.cr4 & CR4_PAE != 0) {
            (true, _) => self.cr3 & FRAME,
            (false, true) => self.cr3 & 0xffff_ffe0,
            (false, false) => self.cr3 & 0xffff_f000,
        }
    }

    /// Translates `linear`. Sets accessed and dirty bits as the processor does: only in an entry that is still what
    /// the translation was made of, as other vCPUs may change the tables meanwhile.
    pub fn translate(
        &self,
        ram: &GuestRam,
        linear: u64,
        access: Access,
    ) -> Result<GuestPhys, WalkError> {
        for _ in 0..WALKS {
            match self.walk(ram, linear, access) {
                Err(WalkError::Unsteady) => {}
                done => return done,
            }
        }
        Err(WalkError::Unsteady)
    }

    /// Translates `linear`, or finds that an entry has changed.
    #[inline(always)]
    fn walk(&self, ram: &GuestRam, linear: u64, access: Access) -> Result<GuestPhys, WalkError> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(GuestPhys(linear & 0xffff_ffff));
        }
        let shape = self.shape();
        let linear = if self.long_mode() {
            let unused = 64 - (12 + shape.levels * shape.bits);
            if ((linear << unused) as i64 >> unused) as u64 != linear {
                return Err(WalkError::NotCanonical);
            }
            linear
        } else {
            linear & 0xffff_ffff
        };
        let no_execute = self.efer & EFER_NXE != 0;
        let fault = |present: bool| {
            let bits = u32::from(present)
                | u32::from(access.write) << 1
                | u32::from(access.user) << 2
                | u32::from(access.fetch && no_execute) << 4;
            WalkError::Fault(bits)
        };
        let mut table = self.root();
        let (mut writable, mut user, mut executable) = (true, true, true);
        for level in (0..shape.levels).rev() {
            let shift = 12 + level * shape.bits;
            // The four entries of a PAE root are no table page of 512.
            let index = linear >> shift & ((1 << shape.bits) - 1);
            let at = GuestPhys(table + index * shape.entry_bytes);
            let entry = if shape.entry_bytes == 8 {
                ram.read_u64(at)?
            } else {
                u64::from(ram.read_u32(at)?)
            };
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            let pae_root = shape.levels == 3 && level == 2;
            if !pae_root {
                writable &= entry & WRITABLE != 0;
                user &= entry & USER != 0;
                executable &= entry & NO_EXECUTE == 0 || !no_execute;
            }
            let large_allowed = match shape.levels {
                2 => level == 1 && self.cr4 & CR4_PSE != 0,
                3 => level == 1,
                _ => level == 1 || level == 2,
            };
            let leaf = level == 0 || large_allowed && entry & LARGE != 0;
            if leaf {
                let denied = access.user && !user
                    || access.write && !writable && (access.user || self.cr0 & CR0_WP != 0)
                    || access.fetch && !executable;
                if denied {
                    return Err(fault(true));
                }
            }
            let used = entry | ACCESSED | if leaf && access.write { DIRTY } else { 0 };
            if used != entry && !pae_root && !ram.exchange(at, shape.entry_bytes, entry, used)? {
                return Err(WalkError::Unsteady);
            }
            if leaf {
                let page = (1u64 << shift) - 1;
                let frame = if shape.entry_bytes == 4 && level == 1 {
                    // PSE-36: bits 13-20 are address bits 32-39.
                    entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
                } else {
                    entry & FRAME
                };
                return Ok(GuestPhys(frame & !page | linear & page));
            }
            table = entry & if shape.entry_bytes == 8 { FRAME } else { 0xffff_f000 };
        }
        Err(fault(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::ram;

    const LONG: Paging = Paging {
        cr0: CR0_PG | CR0_PE | CR0_WP,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA | EFER_NXE,
    };

    fn put(ram: &GuestRam, at: u64, entry: u64) {
        ram.write(GuestPhys(at), &entry.to_le_bytes()).unwrap();
    }

    #[test]
    fn long_mode() {
        let ram = ram(&[(0, 0x10000)]);
        put(&ram, 0x1ff8, 0x2003); // entry 511
        put(&ram, 0x2000, 0x3003);
        put(&ram, 0x3000, 0x4003);
        put(&ram, 0x4008, 0x9001 | NO_EXECUTE);
        put(&ram, 0x3008, 0x1234_0000_0083 & !0x1f_ffff | 0x83); // 2 MiB
        let base = 0xffff_ff80_0000_0000u64;
        let read = Access::default();
        let write = Access { write: true, ..read };
        assert_eq!(LONG.translate(&ram, base + 0x1234, read), Ok(GuestPhys(0x9234)));
        assert_eq!(ram.read_u64(GuestPhys(0x4008)).unwrap() & 0x60, 0x20);
        assert_eq!(LONG.translate(&ram, base + 0x1000, write), Err(WalkError::Fault(3)));
        let fetch = Access { fetch: true, ..read };
        assert_eq!(LONG.translate(&ram, base + 0x1000, fetch), Err(WalkError::Fault(0x11)));
        let user = Access { user: true, ..read };
        assert_eq!(LONG.translate(&ram, base + 0x1000, user), Err(WalkError::Fault(5)));
        assert_eq!(LONG.translate(&ram, base + 0x2000, read), Err(WalkError::Fault(0)));
        let large = LONG.translate(&ram, base + 0x20_1234, write).unwrap();
        assert_eq!(large, GuestPhys(0x1234_0000_1234));
        assert_eq!(ram.read_u64(GuestPhys(0x3008)).unwrap() & 0x60, 0x60);
        assert_eq!(LONG.translate(&ram, 1 << 47, read), Err(WalkError::NotCanonical));
    }

    #[test]
    fn tables_that_point_nowhere_or_at_themselves_end() {
        let ram = ram(&[(0, 0x10000)]);
        for i in 0..512 {
            put(&ram, 0x1000 + i * 8, 0x1003);
        }
        assert!(LONG.translate(&ram, 0x7fff_ffff_f000, Access::default()).is_ok());
        put(&ram, 0x1000, 0xffff_f000_0000 | 3);
        assert_eq!(LONG.translate(&ram, 0, Access::default()), Err(WalkError::TablesNotRam));
    }

    #[test]
    fn an_entry_that_another_vcpu_clears_stays_clear() {
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
        let ram = ram(&[(0, 0x10000)]);
        for (at, entry) in [(0x1000, 0x2023), (0x2000, 0x3023), (0x3000, 0x4023)] {
            put(&ram, at, entry);
        }
        let address = ram.places(GuestPhys(0x4000), 8).next().unwrap().start;
        let pointer = core::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the test's RAM lives for ever and is accessed by volatile copies and atomically.
        let entry: &AtomicU64 = unsafe { AtomicU64::from_ptr(pointer) };
        let done = AtomicBool::new(false);
        let write = Access { write: true, ..Access::default() };
        let revived = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let _ = LONG.translate(&ram, 0x123, write);
                }
            });
            // Neither accessed nor dirty: the walk sets that while this one maps and, once the walk is at it, unmaps.
            let revived = (0..100_000u32).any(|round| {
                entry.store(0x9003, SeqCst);
                (0..round % 512).for_each(|i| _ = core::hint::black_box(i));
                entry.store(0, SeqCst);
                (0..256).any(|_| entry.load(SeqCst) != 0)
            });
            done.store(true, SeqCst);
            revived
        });
        assert!(!revived);
    }

    #[test]
    fn older_modes() {
        let ram = ram(&[(0, 0x10000)]);
        let real = Paging::default();
        assert_eq!(real.translate(&ram, 0x1_0000_1234, Access::default()), Ok(GuestPhys(0x1234)));
        // 32-bit: a table and a 4 MiB page.
        ram.write(GuestPhys(0x1004), &0x2003u32.to_le_bytes()).unwrap();
        ram.write(GuestPhys(0x2004), &0x5003u32.to_le_bytes()).unwrap();
        ram.write(GuestPhys(0x1008), &0x0040_0083u32.to_le_bytes()).unwrap();
        let paging = Paging { cr0: CR0_PG | CR0_PE, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        let write = Access { write: true, ..Access::default() };
        assert_eq!(paging.translate(&ram, 0x40_1abc, write), Ok(GuestPhys(0x5abc)));
        assert_eq!(paging.translate(&ram, 0x80_1abc, write), Ok(GuestPhys(0x40_1abc)));
        // PAE, root not at the start of a page.
        put(&ram, 0x3028, 0x4001);
        put(&ram, 0x4000, 0x6003);
        put(&ram, 0x6000, 0x7003);
        let pae = Paging { cr3: 0x3020, cr4: CR4_PAE, ..paging };
        assert_eq!(pae.translate(&ram, 0x4000_0008, write), Ok(GuestPhys(0x7008)));
    }
}
