//! Segments, task state and I/O permission bitmap of one CPU.
//!
//! The order of the descriptors is dictated by SYSCALL and SYSRET (Intel SDM 3A 5.8.8): SYSCALL takes
//! code and stack from STAR[47:32] and the next descriptor, SYSRET takes the stack from STAR[63:48] + 8
//! and 64-bit code from STAR[63:48] + 16.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use x86::Ring;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, load_ldtr};
use x86::irq::{
    DEBUG_VECTOR, DOUBLE_FAULT_VECTOR, MACHINE_CHECK_VECTOR, NONMASKABLE_INTERRUPT_VECTOR,
};
use x86::segmentation::{Descriptor, SegmentSelector};
use x86::segmentation::{load_cs, load_ds, load_es, load_fs, load_gs, load_ss};

use crate::addr::HostVirt;
use crate::cell::CpuCell;

/// Kernel code.
pub const KERNEL_CODE: SegmentSelector = SegmentSelector::new(2, Ring::Ring0);
/// Kernel data and stack.
pub const KERNEL_DATA: SegmentSelector = SegmentSelector::new(3, Ring::Ring0);
/// Data and stack of user programs.
pub const USER_DATA: SegmentSelector = SegmentSelector::new(5, Ring::Ring3);
/// 64-bit code of user programs.
pub const USER_CODE: SegmentSelector = SegmentSelector::new(6, Ring::Ring3);
/// The task state segment: two descriptor slots.
pub const TASK: SegmentSelector = SegmentSelector::new(7, Ring::Ring0);
const DESCRIPTORS: usize = 9;

/// Value of the STAR MSR for these descriptors: SYSRET adds 8 and 16 to the selector in the upper half, which names
/// the unused slot before [`USER_DATA`].
///
/// It is the value that 64-bit Linux uses, as is [`super::entry::SYSCALL_CLEARS`]: VMX does not switch these MSRs, and
/// what guest and kernel agree on need not be written at an exit.
pub const STAR: u64 = (KERNEL_CODE.bits() as u64) << 32 | (USER_DATA.bits() as u64 - 8) << 48;

/// Vectors with stacks of their own, in the order of the interrupt stack table, whose first slot is number 1: these faults
/// can strike while the kernel's stack pointer is not usable, and inside one another.
pub const OWN_STACKS: [u8; 4] =
    [NONMASKABLE_INTERRUPT_VECTOR, DOUBLE_FAULT_VECTOR, MACHINE_CHECK_VECTOR, DEBUG_VECTOR];

/// Bytes of each interrupt stack: enough to print a panic.
pub const IST_STACK_SIZE: usize = 4096;

/// 32-bit words of an I/O permission bitmap: one bit a port, set where it is forbidden.
pub const IO_BITMAP_WORDS: usize = 65536 / 32;
/// Limit of the task state segment: with the bitmap and the byte of ones behind it, which the CPU
/// reads for the last ports (Intel SDM 1 19.5.2).
const TASK_LIMIT: usize = size_of::<TaskStateSegment>() + 4 * IO_BITMAP_WORDS;

#[repr(align(16))]
struct Stack(#[allow(dead_code, reason = "only the CPU uses it")] [u8; IST_STACK_SIZE]);

/// Descriptor table, task state, I/O bitmap and interrupt stacks of one CPU, about 25 KiB; all zeros
/// is a valid value before [`GdtTss::init`]. Page-aligned, as the CPU reads the task state by
/// physical address within a page (Intel SDM 3A 7.2.1).
///
/// What the CPU, too, writes to is atomic; all of it belongs to one CPU, and every access is relaxed.
#[repr(C, align(4096))]
pub struct GdtTss {
    descriptors: [AtomicU64; DESCRIPTORS],
    /// The task state starts 4 bytes before a multiple of 8, which aligns its stack pointers.
    pad: u32,
    task: CpuCell<TaskStateSegment>,
    io_bitmap: [AtomicU32; IO_BITMAP_WORDS],
    io_end: AtomicU32,
    stacks: [Stack; OWN_STACKS.len()],
}

const TASK_OFFSET: usize = offset_of!(GdtTss, task);
const _: () = {
    assert!(TASK_OFFSET % 8 == 4);
    assert!(offset_of!(GdtTss, io_bitmap) - TASK_OFFSET == size_of::<TaskStateSegment>());
    assert!(offset_of!(GdtTss, io_end) - TASK_OFFSET == TASK_LIMIT);
};

/// Descriptors of all memory as code, 64-bit, and as data (Intel SDM 3A 3.4.5). They are marked as accessed, so that the CPU
/// has no reason to write to the table.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Privilege level 3.
const FOR_PROGRAMS: u64 = 3 << 45;

/// Bit of a system descriptor's type that LTR sets, and that must be clear for LTR.
const TASK_BUSY: u64 = 1 << 41;
/// Type of an available 64-bit TSS (Intel SDM 3A 3.5, table 3-2).
const TASK_AVAILABLE: u8 = 0b1001;

impl GdtTss {
    /// Fills in all tables for use at this address; `kernel_stack` is the stack pointer that
    /// interrupts from user programs get. All ports are forbidden.
    pub fn init(&'static self, kernel_stack: HostVirt) {
        let base = self.task_base().0;
        let mut task = Descriptor::default();
        task.set_base_limit(base as u32, TASK_LIMIT as u32);
        task.set_type(TASK_AVAILABLE);
        task.set_p();
        let table = [
            0,
            0,
            CODE,
            DATA,
            0,
            DATA | FOR_PROGRAMS,
            CODE | FOR_PROGRAMS,
            task.as_u64(),
            base >> 32,
        ];
        for (slot, value) in self.descriptors.iter().zip(table) {
            slot.store(value, Relaxed);
        }
        self.task.with_mut(|task| {
            task.rsp[0] = kernel_stack.0;
            for (slot, stack) in self.stacks.iter().enumerate() {
                task.ist[slot] = ((&raw const *stack).addr() + IST_STACK_SIZE) as u64;
            }
        });
        for word in &self.io_bitmap {
            word.store(u32::MAX, Relaxed);
        }
        self.io_end.store(u32::MAX, Relaxed);
        self.set_io_bitmap(false);
    }

    /// Loads descriptor tables, segments and task register of the current CPU. FS and GS bases become 0.
    ///
    /// # Safety
    ///
    /// [`GdtTss::init`] was called, this is the only CPU that loads these tables, interrupts are
    /// off, and the running code and stack need no segment base.
    pub unsafe fn load(&'static self) {
        let null = SegmentSelector::new(0, Ring::Ring0);
        // SAFETY: the tables are complete (init) and live forever; the selectors name flat segments
        // of the same kind as those in use.
        unsafe {
            lgdt(&DescriptorTablePointer::new(&self.descriptors));
            load_cs(KERNEL_CODE);
            load_ss(KERNEL_DATA);
            load_ds(null);
            load_es(null);
            load_fs(null);
            load_gs(null);
            // After reset there is a local descriptor table at address 0, where programs could make their own gates
            // (Intel SDM 3A table 10-1).
            load_ldtr(null);
            self.load_task();
        }
    }

    /// Loads the task register. A VM exit under VMX sets the limit of TR to 0x67, which hides
    /// the I/O bitmap (Intel SDM 3C 28.5.2): needed again before a program with ports runs.
    ///
    /// # Safety
    ///
    /// These tables are the ones loaded on the current CPU, and interrupts are off.
    pub unsafe fn load_task(&'static self) {
        self.descriptors[TASK.index() as usize].fetch_and(!TASK_BUSY, Relaxed);
        // SAFETY: the descriptor is valid and, since the line above, available. The asm reads and
        // writes the table, so it is no `nomem`.
        unsafe { asm!("ltr {0:x}", in(reg) TASK.bits(), options(nostack, preserves_flags)) };
    }

    /// Address of the task state.
    pub fn task_base(&self) -> HostVirt {
        HostVirt(self.task.as_ptr().addr() as u64)
    }

    /// Whether the bitmap is consulted when a user program uses a port. If not, it is said to be behind the segment's limit,
    /// and no port may be used (Intel SDM 1 19.5.2).
    pub fn set_io_bitmap(&self, enabled: bool) {
        let base = if enabled { size_of::<TaskStateSegment>() as u16 } else { u16::MAX };
        self.task.with_mut(|task| task.iomap_base = base);
    }

    /// The I/O permission bitmap: bit `p % 32` of word `p / 32` forbids port `p`.
    pub fn io_bitmap(&self) -> &[AtomicU32; IO_BITMAP_WORDS] {
        &self.io_bitmap
    }
}
