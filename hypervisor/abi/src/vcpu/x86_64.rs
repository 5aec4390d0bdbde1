//! State page of an x86-64 vCPU.
use bitflags::bitflags;

bitflags! {
    /// Groups of guest state that are saved to and loaded from the state page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Groups: u64 {
        /// `rip`.
        const RIP = 1 << 0;
        /// `gpr[RSP]` and `rflags`.
        const RSP_RFLAGS = 1 << 1;
        /// `cr0 cr2 cr3 cr4 efer`.
        const CONTROL = 1 << 2;
        /// `cs` and `ss`.
        const CS_SS = 1 << 3;
        /// The other segment registers, `gdtr` and `idtr`.
        const SEGMENTS = 1 << 4;
        /// `star lstar cstar sfmask kernel_gs_base sysenter_*`.
        const SYSCALL = 1 << 5;
        /// `inject`, `interrupted`, `interrupt_shadow`, `controls`: events and what to stop at.
        const EVENTS = 1 << 6;
        /// `deadline`.
        const DEADLINE = 1 << 7;
        /// `dr7`.
        const DEBUG = 1 << 8;
        /// `pat`.
        const PAT = 1 << 9;
        /// `xcr0`.
        const XCR0 = 1 << 10;
        /// `tsc_offset`, `tsc_aux`.
        const TSC = 1 << 11;
    }
}

/// Index of `rax` in [`VcpuState::gpr`].
pub const RAX: usize = 0;
/// Index of `rcx`.
pub const RCX: usize = 1;
/// Index of `rdx`.
pub const RDX: usize = 2;
/// Index of `rbx`.
pub const RBX: usize = 3;
/// Index of `rsp`, valid with group `RSP_RFLAGS`.
pub const RSP: usize = 4;
/// Index of `rbp`.
pub const RBP: usize = 5;
/// Index of `rsi`.
pub const RSI: usize = 6;
/// Index of `rdi`.
pub const RDI: usize = 7;

/// [`VcpuState::inject`], [`VcpuState::interrupted`]: an event is there.
pub const EVENT_VALID: u64 = 1 << 31;
/// An error code is in bits 32–63.
pub const EVENT_ERROR: u64 = 1 << 11;
/// Event type: external interrupt. Bits 0–7 are the vector.
pub const EVENT_INTERRUPT: u64 = 0 << 8;
/// Event type: NMI.
pub const EVENT_NMI: u64 = 2 << 8;
/// Event type: exception.
pub const EVENT_EXCEPTION: u64 = 3 << 8;
/// Event type: software interrupt (INT n); `interrupted` only, the instruction restarts.
pub const EVENT_SOFTWARE: u64 = 4 << 8;
/// Mask of the event type.
pub const EVENT_TYPE: u64 = 7 << 8;

/// [`VcpuState::interrupt_shadow`]: interrupts are blocked by STI or MOV SS for one instruction.
pub const SHADOW_INTERRUPT: u64 = 1 << 0;
/// NMIs are blocked until IRET.
pub const SHADOW_NMI: u64 = 1 << 1;

/// [`VcpuState::controls`]: exit as soon as the guest can take an interrupt. Stays set until cleared.
pub const CONTROL_INTERRUPT_WINDOW: u64 = 1 << 0;
/// Exit as soon as the guest can take an NMI.
pub const CONTROL_NMI_WINDOW: u64 = 1 << 1;
/// Do not enter the guest until a kick or the deadline: the vCPU is halted. One reply's worth.
pub const CONTROL_HALT: u64 = 1 << 2;

/// A segment register. `access` is in the VMX format: bits 0–3 type, 4 S, 5–6 DPL, 7 P, 12 AVL, 13 L,
/// 14 D/B, 15 G, 16 unusable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Zero.
    pub reserved: u16,
    /// Access rights.
    pub access: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Zero.
    pub reserved2: u32,
    /// Base address.
    pub base: u64,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// Limit in bytes.
    pub limit: u64,
    /// Base address.
    pub base: u64,
}

/// The state page. Shared memory: both sides treat it as volatile.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct VcpuState {
    /// General registers in the order of their encoding. Always saved and loaded, but for `rsp`.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Event to inject at the next entry (loaded with `EVENTS`, then 0): vector, type, flags, error code, which real mode does
    /// not have.
    pub inject: u64,
    /// Event whose delivery the exit interrupted (saved with `EVENTS`): inject it again.
    pub interrupted: u64,
    /// `SHADOW_*`.
    pub interrupt_shadow: u64,
    /// `CONTROL_*`.
    pub controls: u64,
    /// Counter value at which the vCPU is kicked; `u64::MAX`: never. Taken when it has passed.
    pub deadline: u64,
    /// Zero.
    pub reserved: u64,
    /// CR0 as the guest reads it.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest reads it.
    pub cr4: u64,
    /// EFER as the guest reads it.
    pub efer: u64,
    /// XCR0; bits outside [`crate::boot::BootInfo::xcr0_mask`] are ignored.
    pub xcr0: u64,
    /// DR7.
    pub dr7: u64,
    /// PAT.
    pub pat: u64,
    /// Code segment.
    pub cs: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// Data segment.
    pub ds: Segment,
    /// Extra segment.
    pub es: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: Table,
    /// Interrupt descriptor table.
    pub idtr: Table,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// Added to the machine's TSC to give the guest's.
    pub tsc_offset: u64,
    /// IA32_TSC_AUX, as RDTSCP returns it.
    pub tsc_aux: u64,
}

const _: () = assert!(core::mem::size_of::<VcpuState>() <= crate::PAGE_SIZE);
