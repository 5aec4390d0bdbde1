//! Where things lie in a hostile domain's space.

use crate::calls::table::MOST_THREADS;

/// Its memory, in its space.
pub const MEMORY: u64 = 0x1000_0000;
/// Bytes of it.
pub const AREA: u64 = 0x40000;
/// Bytes of a thread's stack. Its [`Control`] is at the top.
pub const STACK: u64 = 0x2000;
/// Offset of what its guest sees as memory from 0 on: a page of code, then one of data. It cannot make code of its own,
/// so it loops without an exit only where that is meant: see the x86 guest's code for why.
pub const GUEST: u64 = AREA - 2 * GUEST_PAGE;
/// Bytes of each of them.
pub const GUEST_PAGE: u64 = 0x1000;
/// First UTCB.
pub const UTCBS: u64 = 0x3000_0000;
/// The vCPU's state page.
pub const STATE: u64 = 0x3100_0000;
/// From here on nothing is mapped.
pub const UNUSED: u64 = 0x1_0000_0000;

const _: () = assert!(MOST_THREADS * STACK <= GUEST);

/// A number that threads without respect for this memory do not forge: it is there twice.
#[repr(C)]
#[derive(Default)]
pub struct Twice {
    value: u64,
    inverse: u64,
}

impl Twice {
    /// The number, or 0 if somebody has written over it.
    ///
    /// # Safety
    /// `place` can be read.
    pub unsafe fn read(place: *const Twice) -> u64 {
        // SAFETY: the caller's.
        let (value, inverse) = unsafe {
            (
                (&raw const (*place).value).read_volatile(),
                (&raw const (*place).inverse).read_volatile(),
            )
        };
        if value == !inverse { value } else { 0 }
    }

    /// Sets the number.
    ///
    /// # Safety
    /// `place` can be written.
    pub unsafe fn write(place: *mut Twice, value: u64) {
        // SAFETY: the caller's.
        unsafe {
            (&raw mut (*place).value).write_volatile(value);
            (&raw mut (*place).inverse).write_volatile(!value);
        }
    }
}

/// What a thread is told, and what it tells.
#[repr(C)]
pub struct Control {
    /// State of its generator.
    pub seed: u64,
    /// System calls that it made.
    pub calls: Twice,
    /// 0: makes calls. 1: handles them.
    pub role: u64,
    /// A handler calls this selector before it answers, unless it is 0.
    pub next: u64,
    /// Its number.
    pub number: u64,
    /// CPUs of the machine.
    pub cpus: u64,
    /// What the calls returned, as one number.
    pub digest: u64,
    /// 0, or a call that returned what it must not: its tag, and bits 32–63 the tag that it returned.
    pub undeclared: Twice,
}

/// Offset of the control block of thread `number`, which is also its first stack pointer.
pub const fn control(number: u64) -> u64 {
    (number + 1) * STACK - size_of::<Control>() as u64
}
