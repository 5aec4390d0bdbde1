//! Segments, task state and I/O permission bitmap of one CPU.
//!
//! The order of the descriptors is dictated by SYSCALL and SYSRET (Intel SDM 3A 5.8.8): SYSCALL takes
//! code and stack from STAR[47:32] and the next descriptor, SYSRET takes the stack from STAR[63:48] + 8
//! and 64-bit code from STAR[63:48] + 16.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use x86::Ring;
use x86::segmentation::{Descriptor, SegmentSelector};

use crate::addr::HostVirt;

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

/// Slots of the interrupt stack table, for the IDT's gates. Each has a stack of its own, as these
/// faults can strike while the kernel's stack pointer is not usable, and inside one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ist {
    /// Non-maskable interrupt.
    Nmi = 1,
    /// Double fault.
    DoubleFault = 2,
    /// Machine check.
    MachineCheck = 3,
    /// Debug exception.
    Debug = 4,
}

/// Bytes of each interrupt stack: enough to print a panic.
pub const IST_STACK_SIZE: usize = 4096;
const IST_STACKS: usize = 4;

/// Where the I/O permission bitmap is, as the task state says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum IoBitmap {
    /// Behind the segment's limit: no user program may use a port (Intel SDM 1 19.5.2).
    Disabled = u16::MAX,
    /// The bitmap of this CPU decides.
    Enabled = TASK_STATE_SIZE,
}

const TASK_STATE_SIZE: u16 = 104;
/// 32-bit words of an I/O permission bitmap: one bit a port, set where it is forbidden.
pub const IO_BITMAP_WORDS: usize = 65536 / 32;
/// Limit of the task state segment: with the bitmap and the byte of ones behind it, which the CPU
/// reads for the last ports (Intel SDM 1 19.5.2).
const TASK_LIMIT: u32 = TASK_STATE_SIZE as u32 + 4 * IO_BITMAP_WORDS as u32;

#[repr(align(16))]
struct Stack(#[allow(dead_code, reason = "only the CPU uses it")] [u8; IST_STACK_SIZE]);

/// Descriptor table, task state, I/O bitmap and interrupt stacks of one CPU, about 25 KiB; all zeros
/// is a valid value before [`GdtTss::init`]. Page-aligned, as the CPU reads the task state by
/// physical address within a page (Intel SDM 3A 7.2.1).
///
/// The fields are atomics because the CPU, too, reads and writes them; each belongs to one CPU, and
/// every access is relaxed.
#[repr(C, align(4096))]
pub struct GdtTss {
    descriptors: [AtomicU64; DESCRIPTORS],
    pad: u32,
    // The task state starts here, 4 bytes before a multiple of 8, which aligns its stack pointers.
    task_reserved0: AtomicU32,
    rsp: [AtomicU64; 3],
    task_reserved1: u64,
    ist: [AtomicU64; 7],
    task_reserved2: u64,
    task_reserved3: u16,
    io_base: AtomicU16,
    io_bitmap: [AtomicU32; IO_BITMAP_WORDS],
    io_end: AtomicU32,
    stacks: [Stack; IST_STACKS],
}

const TASK_OFFSET: usize = offset_of!(GdtTss, task_reserved0);
const _: () = {
    assert!(offset_of!(GdtTss, rsp) - TASK_OFFSET == 4);
    assert!(offset_of!(GdtTss, ist) - TASK_OFFSET == 0x24);
    assert!(offset_of!(GdtTss, io_base) - TASK_OFFSET == 0x66);
    assert!(offset_of!(GdtTss, io_bitmap) - TASK_OFFSET == TASK_STATE_SIZE as usize);
    assert!(offset_of!(GdtTss, io_end) - TASK_OFFSET == TASK_LIMIT as usize);
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
    /// The initial value, for statics. It takes [`GdtTss::init`] before it can be loaded.
    pub const fn new() -> GdtTss {
        GdtTss {
            descriptors: [const { AtomicU64::new(0) }; DESCRIPTORS],
            pad: 0,
            task_reserved0: AtomicU32::new(0),
            rsp: [const { AtomicU64::new(0) }; 3],
            task_reserved1: 0,
            ist: [const { AtomicU64::new(0) }; 7],
            task_reserved2: 0,
            task_reserved3: 0,
            io_base: AtomicU16::new(0),
            io_bitmap: [const { AtomicU32::new(0) }; IO_BITMAP_WORDS],
            io_end: AtomicU32::new(0),
            stacks: [const { Stack([0; IST_STACK_SIZE]) }; IST_STACKS],
        }
    }

    /// Fills in all tables for use at this address; `kernel_stack` is the stack pointer that
    /// interrupts from user programs get. All ports are forbidden.
    pub fn init(&'static self, kernel_stack: HostVirt) {
        let base = (&raw const self.task_reserved0).addr() as u64;
        let mut task = Descriptor::default();
        task.set_base_limit(base as u32, TASK_LIMIT);
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
        self.rsp[0].store(kernel_stack.0, Relaxed);
        for (slot, stack) in self.ist.iter().zip(&self.stacks) {
            let top = (&raw const *stack).addr() + IST_STACK_SIZE;
            slot.store(top as u64, Relaxed);
        }
        for word in &self.io_bitmap {
            word.store(u32::MAX, Relaxed);
        }
        self.io_end.store(u32::MAX, Relaxed);
        self.set_io_bitmap(IoBitmap::Disabled);
    }

    /// Loads descriptor tables, segments and task register of the current CPU. FS and GS bases become 0.
    ///
    /// # Safety
    ///
    /// [`GdtTss::init`] was called, this is the only CPU that loads these tables, interrupts are
    /// off, and the running code and stack need no segment base.
    pub unsafe fn load(&'static self) {
        #[repr(C, packed)]
        struct TablePointer {
            limit: u16,
            base: u64,
        }
        let pointer = TablePointer {
            limit: (size_of::<u64>() * DESCRIPTORS - 1) as u16,
            base: self.descriptors.as_ptr().addr() as u64,
        };
        self.descriptors[TASK.index() as usize].fetch_and(!TASK_BUSY, Relaxed);
        // SAFETY: the tables are complete (init) and live forever; the selectors name flat segments
        // of the same kind as those in use. The asm reads and writes the table, so it is no `nomem`.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ss, {data:x}",
                "mov ds, {null:x}",
                "mov es, {null:x}",
                "mov fs, {null:x}",
                "mov gs, {null:x}",
                // After reset there is a local descriptor table at address 0, where programs could make their own gates
                // (Intel SDM 3A table 10-1).
                "lldt {null:x}",
                "ltr {task:x}",
                pointer = in(reg) &raw const pointer,
                code = in(reg) KERNEL_CODE.bits() as u64,
                data = in(reg) KERNEL_DATA.bits(),
                null = in(reg) 0u16,
                task = in(reg) TASK.bits(),
                scratch = out(reg) _,
            );
        }
    }

    /// Restores limits that a VM exit under VMX changes: it sets the limit of TR to 0x67, which hides
    /// the I/O bitmap (Intel SDM 3C 28.5.2). Needed before a program with ports runs again.
    ///
    /// # Safety
    ///
    /// These tables are the ones loaded on the current CPU, and interrupts are off.
    pub unsafe fn reload_task(&'static self) {
        self.descriptors[TASK.index() as usize].fetch_and(!TASK_BUSY, Relaxed);
        // SAFETY: the descriptor is valid and, since the line above, available. The asm reads and
        // writes the table, so it is no `nomem`.
        unsafe { asm!("ltr {0:x}", in(reg) TASK.bits(), options(nostack, preserves_flags)) };
    }

    /// Address of the task state, for the TR base of a VMCS host area.
    pub fn task_base(&self) -> HostVirt {
        HostVirt((&raw const self.task_reserved0).addr() as u64)
    }

    /// Sets the stack pointer that interrupts from user programs get.
    pub fn set_kernel_stack(&self, top: HostVirt) {
        self.rsp[0].store(top.0, Relaxed);
    }

    /// Whether the bitmap is consulted when a user program uses a port: one store.
    pub fn set_io_bitmap(&self, bitmap: IoBitmap) {
        self.io_base.store(bitmap as u16, Relaxed);
    }

    /// The I/O permission bitmap: bit `p % 32` of word `p / 32` forbids port `p`.
    pub fn io_bitmap(&self) -> &[AtomicU32; IO_BITMAP_WORDS] {
        &self.io_bitmap
    }
}

impl Default for GdtTss {
    fn default() -> GdtTss {
        GdtTss::new()
    }
}
