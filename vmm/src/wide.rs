//! Which kinds of a vCPU's exits are wide: save more state than usual (`exits` of the architecture).
//!
//! A change is dear, and not only for the guest that asks for it: a capability is deleted, which interrupts every CPU of
//! the machine. So a kind that became wide stays so for some time, however often the guest needs it.
use crate::bits::ones;
use crate::platform::Platform;
use abi::vcpu::ExitKind;

/// Ticks for which a kind stays wide: some seconds of a kernel's timer.
pub const TICKS: u32 = 1000;

/// The kinds that are wide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wide {
    /// A bit for each.
    kinds: u32,
    /// Ticks since the last of them became so.
    ticks: u32,
}

impl Wide {
    /// Whether exits of a kind are wide.
    pub fn contains(&self, kind: ExitKind) -> bool {
        self.kinds & 1 << kind as u32 != 0
    }

    /// Makes exits of a kind wide: the guest runs into the exit again, with more state.
    #[cold]
    pub fn insert(&mut self, kind: ExitKind, platform: &mut impl Platform) {
        self.kinds |= 1 << kind as u32;
        self.ticks = 0;
        platform.widen(kind, true);
    }

    /// The guest's timer has fired, or somebody has signalled.
    #[inline(always)]
    pub fn tick(&mut self, platform: &mut impl Platform) {
        if self.kinds != 0 {
            self.count(platform);
        }
    }

    #[cold]
    fn count(&mut self, platform: &mut impl Platform) {
        self.ticks += 1;
        if self.ticks < TICKS {
            return;
        }
        for kind in ones(core::mem::take(&mut self.kinds).into()) {
            if let Some(kind) = ExitKind::from_code(kind as u8) {
                platform.widen(kind, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::World;

    #[test]
    fn what_became_wide_stays_so_for_some_time() {
        let mut world = World::default();
        let mut wide = Wide::default();
        (0..2 * TICKS).for_each(|_| wide.tick(&mut world));
        wide.insert(ExitKind::Io, &mut world);
        (1..TICKS).for_each(|_| wide.tick(&mut world));
        wide.insert(ExitKind::ReadMsr, &mut world);
        let became = [(ExitKind::Io, true), (ExitKind::ReadMsr, true)];
        assert_eq!(world.widened.take(), became);
        (1..TICKS).for_each(|_| wide.tick(&mut world));
        assert!(wide.contains(ExitKind::Io) && wide.contains(ExitKind::ReadMsr));
        assert_eq!(world.widened.take(), []);
        (0..2 * TICKS).for_each(|_| wide.tick(&mut world));
        assert!(!wide.contains(ExitKind::Io) && !wide.contains(ExitKind::ReadMsr));
        let became = [(ExitKind::Io, false), (ExitKind::ReadMsr, false)];
        assert_eq!(world.widened.take(), became);
    }
}
