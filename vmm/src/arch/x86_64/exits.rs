//! Which state each kind of exit brings along.
//!
//! The less is saved, the shorter the exit. What is needed seldom is not saved for every exit: the
//! handler asks for it by [`crate::platform::Platform::widen`], and the guest runs into the same exit again.
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::Groups;

/// What is needed to decode and emulate an instruction.
pub const EMULATION: Groups = Groups::RIP
    .union(Groups::RSP_RFLAGS)
    .union(Groups::CONTROL)
    .union(Groups::CS_SS)
    .union(Groups::SEGMENTS);

/// What is needed to decide about an injection.
const INJECTION: Groups = Groups::EVENTS.union(Groups::RSP_RFLAGS);

/// Groups that exits of a kind save.
pub const fn saved(kind: ExitKind) -> Groups {
    use ExitKind as K;
    match kind {
        K::ReadMsr | K::WriteMsr | K::Io | K::Hypercall => Groups::RIP,
        // OSXSAVE, and the size of the area that XSAVE fills.
        K::Cpuid => Groups::RIP.union(Groups::CONTROL).union(Groups::XCR0),
        K::CacheFlush | K::Pause => Groups::RIP,
        K::Kick | K::InterruptWindow | K::NmiWindow => INJECTION,
        K::Halt => INJECTION.union(Groups::RIP),
        K::StageTwoFault => EMULATION.union(Groups::EVENTS),
        K::ControlRegister => EMULATION,
        K::SetXcr => Groups::RIP.union(Groups::CS_SS),
        // For the message about it.
        K::Exception | K::NoInstruction | K::DebugRegister | K::TaskSwitch | K::TripleFault => {
            EMULATION.union(Groups::EVENTS)
        }
        K::InvalidState | K::Other => EMULATION.union(Groups::EVENTS),
        // Not of this architecture.
        K::SystemRegister | K::FirmwareCall | K::VirtualTimer | K::InterruptController => {
            EMULATION.union(Groups::EVENTS)
        }
        K::Startup => Groups::empty(),
    }
}

/// Groups that exits of a kind save after they were widened.
pub const fn widened(kind: ExitKind) -> Groups {
    use ExitKind as K;
    match kind {
        // String instructions.
        K::Io => EMULATION,
        // EFER, and the MSRs of SYSCALL and SYSENTER.
        K::ReadMsr | K::WriteMsr => Groups::RIP.union(Groups::CONTROL).union(Groups::SYSCALL),
        _ => saved(kind),
    }
}

/// The kinds that can be widened.
pub const WIDENED: [ExitKind; 3] = [ExitKind::Io, ExitKind::ReadMsr, ExitKind::WriteMsr];
