//! Which state each kind of exit brings along.
//!
//! The less is saved, the shorter the exit. What is needed seldom is not saved for every exit: the
//! handler asks for it by [`crate::platform::Platform::widen`], and the guest runs into the same exit again.
use super::exception::NEEDED;
use abi::vcpu::ExitKind;
use abi::vcpu::aarch64::Groups;

/// What is needed to go on behind an instruction ([`super::syndrome::after_instruction`]).
const SKIPPING: Groups = Groups::PC.union(Groups::PSTATE);

/// Groups that exits of a kind save.
pub const fn saved(kind: ExitKind) -> Groups {
    use ExitKind as K;
    match kind {
        K::Kick | K::VirtualTimer | K::InterruptController => Groups::GIC,
        K::Halt | K::StageTwoFault => Groups::GIC.union(SKIPPING),
        K::SystemRegister | K::FirmwareCall | K::Pause => SKIPPING,
        // The general registers alone.
        K::Hypercall | K::Startup => Groups::empty(),
        // For the message about it, and for an exception.
        _ => NEEDED,
    }
}

/// Groups that exits of a kind save after they were widened: what an exception needs.
pub const fn widened(kind: ExitKind) -> Groups {
    match kind {
        ExitKind::StageTwoFault | ExitKind::SystemRegister => saved(kind).union(NEEDED),
        _ => saved(kind),
    }
}

/// The kinds that can be widened.
pub const WIDENED: [ExitKind; 2] = [ExitKind::StageTwoFault, ExitKind::SystemRegister];
