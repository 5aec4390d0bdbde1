//! vCPU exits: what a monitor receives and what it may answer.
//!
//! Every exit is a call to the portal of its kind. The registers of the message hold:
//!
//! | word | content |
//! | --- | --- |
//! | identity | the portal's |
//! | 0 | [`ExitKind`], bits 0–7; instruction length in bytes, bits 8–15 (0: unknown) |
//! | 1, 2, 3 | qualification, by kind (below) |
//! | 4–7 | zero |
//!
//! Registers of the guest are in the vCPU's *state page*, which kernel and monitor share: the general
//! registers always, other groups when the portal's mask names them ([`x86_64::Groups`],
//! [`aarch64::Groups`]). The reply's
//! register word 0 is a mask of the groups that the monitor changed, which the kernel then loads;
//! general registers are always loaded. UTCB words are not used.
//!
//! The kernel checks what it loads: bits that would harm the host are forced or ignored, and state that the
//! processor refuses comes back as [`ExitKind::InvalidState`]. A new vCPU's first exit is
//! [`ExitKind::Startup`]; nothing of the guest runs before its answer.

pub mod aarch64;
pub mod x86_64;

/// Why a vCPU left guest mode. Qualification words are given as `1:`, `2:`, `3:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
    /// A bound notification was signalled or the vCPU's deadline passed. 1: the bits (0 when only
    /// the deadline passed), 2: 1 when the deadline passed. Wins over other exits not yet taken.
    Kick = 0,
    /// The vCPU was started and has no state yet.
    Startup = 1,
    /// Access to guest-physical memory that is not mapped so. 1: [`FAULT_READ`] and the like,
    /// 2: guest-physical address, 3: guest-linear address, if bit [`FAULT_LINEAR`] of 1 is set. Arm: bits
    /// 32–63 of 1 are ESR_EL2; `pc` is the instruction's.
    StageTwoFault = 2,
    /// The processor refused the state. 1: the raw reason. VMX: what was to be injected is the event that was interrupted.
    InvalidState = 3,
    /// The guest can take an interrupt now, as asked by [`x86_64::CONTROL_INTERRUPT_WINDOW`].
    InterruptWindow = 4,
    /// The guest waits for an interrupt (HLT, WFI).
    Halt = 5,
    /// The guest called its hypervisor (VMCALL/VMMCALL, HVC). Arm: 1: ESR_EL2; `pc` is past the HVC already.
    Hypercall = 6,
    /// The guest can take an NMI now, as asked by [`x86_64::CONTROL_NMI_WINDOW`].
    NmiWindow = 7,
    /// x86: CPUID.
    Cpuid = 8,
    /// x86: port access. 1: bits 0–15 port, 16–18 size in bytes, bit 24 in, bit 25 string, bit 26
    /// REP prefix; 2: address of the next instruction, or 0 if unknown. The data of non-string
    /// accesses is in `rax`.
    Io = 9,
    /// x86: RDMSR. Number in `rcx`.
    ReadMsr = 10,
    /// x86: WRMSR. Number in `rcx`.
    WriteMsr = 11,
    /// x86: write to a control register that the guest does not own whole. 1: bits 0–3 register, bits
    /// 4–5 access (0 MOV to, 1 MOV from, 2 CLTS, 3 LMSW), bits 8–11 general register, bits 16–31 LMSW source;
    /// bit 63: qualification unknown, decode the instruction.
    ControlRegister = 12,
    /// x86: XSETBV. Register in `rcx`, value in `edx:eax`.
    SetXcr = 13,
    /// x86: exception that the monitor intercepts. 1: vector, 2: error code, 3: fault address.
    Exception = 14,
    /// x86: triple fault.
    TripleFault = 15,
    /// x86: an instruction that the virtual processor does not have (VMX, SVM, SMX, MONITOR, MWAIT, RDPMC,
    /// XSAVES, INVPCID where hidden, …). 1: the raw reason. Answer: inject #UD (#GP for RDPMC).
    NoInstruction = 16,
    /// x86: WBINVD, INVD: skip it.
    CacheFlush = 17,
    /// x86: access to a debug register. 1: as for `ControlRegister`.
    DebugRegister = 18,
    /// x86: task switch. 1: raw qualification.
    TaskSwitch = 19,
    /// PAUSE or a similar hint: nothing to emulate.
    Pause = 20,
    /// x86: INIT or SIPI, SMI and other events. Arm: an exception that no other kind covers. 1: the raw reason
    /// (Arm: ESR_EL2).
    Other = 21,
    /// Arm: trapped access to a system register. 1: ESR_EL2, whose ISS names register, direction and
    /// general register (Arm ARM D17.2.37).
    SystemRegister = 22,
    /// Arm: SMC. 1: ESR_EL2. The preferred return address is the SMC itself: skip it.
    FirmwareCall = 23,
    /// Arm: the virtual timer has fired. The kernel has set CNTV_CTL_EL0.IMASK, as if the guest had.
    VirtualTimer = 24,
    /// Arm: maintenance interrupt of the virtual CPU interface, as asked by
    /// [`aarch64::VcpuState::gic_control`]. 1: GICH_MISR or ICH_MISR_EL2. What asked for it is off until it is
    /// loaded again.
    InterruptController = 25,
}

/// Number of exit kinds; a vCPU uses this many consecutive portal selectors.
pub const EXIT_KINDS: u32 = 26;

impl ExitKind {
    /// The kind with this code, if there is one.
    pub const fn from_code(code: u8) -> Option<ExitKind> {
        use ExitKind::*;
        const KINDS: [ExitKind; EXIT_KINDS as usize] = [
            Kick,
            Startup,
            StageTwoFault,
            InvalidState,
            InterruptWindow,
            Halt,
            Hypercall,
            NmiWindow,
            Cpuid,
            Io,
            ReadMsr,
            WriteMsr,
            ControlRegister,
            SetXcr,
            Exception,
            TripleFault,
            NoInstruction,
            CacheFlush,
            DebugRegister,
            TaskSwitch,
            Pause,
            Other,
            SystemRegister,
            FirmwareCall,
            VirtualTimer,
            InterruptController,
        ];
        if (code as usize) < KINDS.len() { Some(KINDS[code as usize]) } else { None }
    }
}

/// [`ExitKind::StageTwoFault`]: the access was a read.
pub const FAULT_READ: u64 = 1 << 0;
/// [`ExitKind::StageTwoFault`]: the access was a write.
pub const FAULT_WRITE: u64 = 1 << 1;
/// [`ExitKind::StageTwoFault`]: the access was an instruction fetch.
pub const FAULT_FETCH: u64 = 1 << 2;
/// [`ExitKind::StageTwoFault`]: the linear address is valid.
pub const FAULT_LINEAR: u64 = 1 << 7;

/// [`ExitKind::StageTwoFault`]: ESR_EL2 (Arm).
pub const fn fault_syndrome(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Exit word 0: the kind, if known.
pub const fn exit_kind(word: u64) -> Option<ExitKind> {
    ExitKind::from_code(word as u8)
}

/// Exit word 0: the length of the instruction that caused the exit in bytes, 0 if unknown.
pub const fn instruction_length(word: u64) -> u64 {
    word >> 8 & 0xff
}
