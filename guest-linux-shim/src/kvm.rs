//! The interfaces by which a stock Linux recognises and uses a KVM-style hypervisor on x86.
//!
//! Sources: Linux's Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst and
//! arch/x86/include/uapi/asm/kvm_para.h.

pub mod clock;

/// CPUID leaf of the signature. `eax` is the highest leaf, [`CPUID_FEATURES`].
pub const CPUID_SIGNATURE: u32 = 0x4000_0000;
/// CPUID leaf of the features (`eax`, see [`feature`]) and hints (`edx`, see [`hint`]).
pub const CPUID_FEATURES: u32 = 0x4000_0001;
/// CPUID leaf of the frequencies: `eax` is that of the TSC, `ebx` that of the APIC timer, in kHz. Part of
/// the generic hypervisor interface; the highest leaf has to reach it.
pub const CPUID_FREQUENCY: u32 = 0x4000_0010;
/// `ebx`, `ecx`, `edx` of [`CPUID_SIGNATURE`]: `"KVMKVMKVM\0\0\0"`.
pub const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"KVMK"), u32::from_le_bytes(*b"VMKV"), u32::from_le_bytes(*b"M\0\0\0")];

/// Feature bits of [`CPUID_FEATURES`].
pub mod feature {
    /// Clock by [`super::msr::SYSTEM_TIME_OLD`].
    pub const CLOCKSOURCE: u32 = 1 << 0;
    /// No delay is needed between port accesses.
    pub const NOP_IO_DELAY: u32 = 1 << 1;
    /// Clock by [`super::msr::SYSTEM_TIME`].
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    /// [`super::msr::STEAL_TIME`] works.
    pub const STEAL_TIME: u32 = 1 << 5;
    /// [`super::msr::PV_EOI`] works.
    pub const PV_EOI: u32 = 1 << 6;
    /// [`super::hypercall::KICK_CPU`] works.
    pub const PV_UNHALT: u32 = 1 << 7;
    /// A TLB flush of a preempted vCPU may be left to its next entry. Needs [`STEAL_TIME`].
    pub const PV_TLB_FLUSH: u32 = 1 << 9;
    /// [`super::hypercall::SEND_IPI`] works.
    pub const PV_SEND_IPI: u32 = 1 << 11;
    /// [`super::hypercall::SCHED_YIELD`] works.
    pub const PV_SCHED_YIELD: u32 = 1 << 13;
    /// MSIs carry 15 bits of destination.
    pub const MSI_EXT_DEST_ID: u32 = 1 << 15;
    /// The clock is the same on all vCPUs and never stops.
    pub const CLOCKSOURCE_STABLE: u32 = 1 << 24;
}

/// Hint bits of [`CPUID_FEATURES`].
pub mod hint {
    /// vCPUs are never preempted for long: spinning is fine.
    pub const REALTIME: u32 = 1 << 0;
}

/// Model-specific registers.
pub mod msr {
    /// As [`WALL_CLOCK`], for kernels before 2.6.35.
    pub const WALL_CLOCK_OLD: u32 = 0x11;
    /// As [`SYSTEM_TIME`], for kernels before 2.6.35.
    pub const SYSTEM_TIME_OLD: u32 = 0x12;
    /// Address of a [`super::clock::WallClock`] that is filled in once.
    pub const WALL_CLOCK: u32 = 0x4b56_4d00;
    /// Address of this vCPU's [`super::clock::SystemTime`], with bit 0 set to enable it.
    pub const SYSTEM_TIME: u32 = 0x4b56_4d01;
    /// Asynchronous page faults.
    pub const ASYNC_PF_EN: u32 = 0x4b56_4d02;
    /// Address of this vCPU's record of stolen time, with bit 0 set to enable it.
    pub const STEAL_TIME: u32 = 0x4b56_4d03;
    /// Address of this vCPU's word for EOI without an exit, with bit 0 set to enable it.
    pub const PV_EOI: u32 = 0x4b56_4d04;
    /// Control of polling before a halt.
    pub const POLL_CONTROL: u32 = 0x4b56_4d05;
    /// Vector of asynchronous page faults.
    pub const ASYNC_PF_INT: u32 = 0x4b56_4d06;
    /// Acknowledges an asynchronous page fault.
    pub const ASYNC_PF_ACK: u32 = 0x4b56_4d07;
}

/// Hypercalls: number in `rax`, arguments in `rbx`, `rcx`, `rdx`, `rsi`; result in `rax`.
pub mod hypercall {
    /// Wakes the halted vCPU whose APIC ID is the second argument.
    pub const KICK_CPU: u64 = 5;
    /// Sends an interrupt to the vCPUs of a bitmap: low and high word, lowest APIC ID, ICR.
    pub const SEND_IPI: u64 = 10;
    /// Yields to the preempted vCPU with this APIC ID.
    pub const SCHED_YIELD: u64 = 11;

    /// Result: no such hypercall.
    pub const ENOSYS: i64 = -1000;
    /// Result: not from user mode.
    pub const EPERM: i64 = -1;
}
