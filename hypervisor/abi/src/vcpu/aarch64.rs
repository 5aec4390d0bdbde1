//! State page of an AArch64 vCPU.
//!
//! The guest runs at EL1 and EL0. The kernel keeps its whole state; a monitor sees the part that it needs to
//! start a guest, emulate instructions and inject exceptions (which it does itself, by `pc`, `pstate`,
//! and group [`Groups::SYSTEM`]).
//!
//! Interrupts are injected through the list registers of the GIC's virtual CPU interface. They have the format
//! of ICH_LR<n>_EL2 (Arm IHI 0069, 12.4.6) on every machine; the kernel converts them for GICv2. The bit that
//! ties a list register to an interrupt of the machine (HW) is ignored.
use bitflags::bitflags;

bitflags! {
    /// Groups of guest state that are saved to and loaded from the state page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Groups: u64 {
        /// `pc`.
        const PC = 1 << 0;
        /// `pstate`.
        const PSTATE = 1 << 1;
        /// EL0's and EL1's registers, from `sp_el0` to `csselr_el1`.
        const SYSTEM = 1 << 2;
        /// `controls`. Loaded only.
        const CONTROLS = 1 << 3;
        /// `deadline`. Loaded only.
        const DEADLINE = 1 << 4;
        /// `cntvoff`, `cntv_ctl`, `cntv_cval`.
        const TIMER = 1 << 5;
        /// `list`, `gic_control`, `vmcr`, `active_priorities`: the virtual CPU interface.
        const GIC = 1 << 6;
        /// `vmpidr`, `vpidr`. Loaded only.
        const IDENTITY = 1 << 7;
    }
}

/// General registers: `x0` to `x30`.
pub const GPRS: usize = 31;
/// Most list registers of a virtual CPU interface.
pub const LIST_REGISTERS: usize = 16;

/// [`VcpuState::controls`]: do not enter the guest until a kick, the deadline or the virtual timer: the vCPU is halted. One
/// reply's worth.
pub const CONTROL_HALT: u64 = 1 << 0;
/// [`VcpuState::controls`]: a virtual SError is pending (HCR_EL2.VSE). Stays set until the guest takes it.
pub const CONTROL_SERROR: u64 = 1 << 1;

/// [`VcpuState::gic_control`]: exit when at most one list register holds an interrupt (ICH_HCR_EL2.UIE).
pub const GIC_UNDERFLOW: u64 = 1 << 1;
/// [`VcpuState::gic_control`]: exit when the guest ends an interrupt that is in no list register (LRENPIE).
pub const GIC_ENTRY_NOT_PRESENT: u64 = 1 << 2;
/// [`VcpuState::gic_control`]: exit when no list register is pending (NPIE).
pub const GIC_NO_PENDING: u64 = 1 << 3;

/// List register: state mask.
pub const LIST_STATE: u64 = 3 << 62;
/// List register: pending.
pub const LIST_PENDING: u64 = 1 << 62;
/// List register: active.
pub const LIST_ACTIVE: u64 = 2 << 62;
/// List register: group 1.
pub const LIST_GROUP1: u64 = 1 << 60;
/// List register: lowest bit of the priority (8 bits).
pub const LIST_PRIORITY_SHIFT: u32 = 48;
/// List register: exit when the guest ends it ([`super::ExitKind::InterruptController`]).
pub const LIST_EOI: u64 = 1 << 41;
/// List register: mask of the virtual INTID. GICv2's source CPU of an SGI is in bits 32 to 34.
pub const LIST_INTID: u64 = 0xffff_ffff;
/// List register, GICv2: lowest bit of the source CPU of an SGI.
pub const LIST_SOURCE_SHIFT: u32 = 32;

/// The state page. Shared memory: both sides treat it as volatile.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct VcpuState {
    /// `x0` to `x30`. Always saved and loaded.
    pub gpr: [u64; GPRS],
    /// Program counter.
    pub pc: u64,
    /// PSTATE in the format of SPSR_EL2. Only modes EL0t, EL1t and EL1h, AArch64 (or AArch32 at EL0), are
    /// loaded; anything else becomes EL1h with all exceptions masked.
    pub pstate: u64,
    /// `CONTROL_*`.
    pub controls: u64,
    /// Counter value at which the vCPU is kicked; `u64::MAX`: never. Taken when it has passed.
    pub deadline: u64,
    /// VMPIDR_EL2: what the guest reads as MPIDR_EL1.
    pub vmpidr: u64,
    /// VPIDR_EL2: what the guest reads as MIDR_EL1.
    pub vpidr: u64,
    /// Subtracted from the machine's counter to give the guest's virtual one.
    pub cntvoff: u64,
    /// CNTV_CTL_EL0.
    pub cntv_ctl: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval: u64,
    /// `GIC_*`.
    pub gic_control: u64,
    /// Virtual machine control: ICH_VMCR_EL2's format.
    pub vmcr: u64,
    /// Active priorities, groups 0 and 1 (ICH_AP0R<n>_EL2 in 0 to 3, ICH_AP1R<n>_EL2 in 4 to 7; GICv2: GICH_APR in 0).
    pub active_priorities: [u32; 8],
    /// List registers; those beyond the machine's number are ignored.
    pub list: [u64; LIST_REGISTERS],
    /// SP_EL0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// FAR_EL1.
    pub far_el1: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// TTBR0_EL1.
    pub ttbr0_el1: u64,
    /// TTBR1_EL1.
    pub ttbr1_el1: u64,
    /// TCR_EL1.
    pub tcr_el1: u64,
    /// MAIR_EL1.
    pub mair_el1: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// CPACR_EL1.
    pub cpacr_el1: u64,
    /// CONTEXTIDR_EL1.
    pub contextidr_el1: u64,
    /// TPIDR_EL0.
    pub tpidr_el0: u64,
    /// TPIDRRO_EL0.
    pub tpidrro_el0: u64,
    /// TPIDR_EL1.
    pub tpidr_el1: u64,
    /// CSSELR_EL1.
    pub csselr_el1: u64,
}

const _: () = assert!(core::mem::size_of::<VcpuState>() <= crate::PAGE_SIZE);
