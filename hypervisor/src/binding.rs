//! Bindings: what signals a notification of itself. An interrupt line, the overruns of a scheduling context and the log
//! are bound with two capabilities, theirs and one to the notification, and the binding ends with either. So do waits, with
//! the capability that they were begun with, and a vCPU's kick.
//!
//! What is bound with a capability to a notification is a list of the other capabilities that starts there. It changes
//! under the tree's lock.

use crate::cell::Ref;
use crate::domain::{Domain, resolve};
use crate::interrupt::{self, Interrupt};
use crate::logring;
use crate::notification::{self, Notification};
use crate::overrun;
use crate::sched::Sched;
use crate::slot::{CapWord, Slot, Tree};
use crate::sync::atomic::{Ordering, fence};
use crate::vcpu::Vcpu;
use abi::argument::Cap;
use abi::argument::right::SIGNAL;
use abi::cap::Kind;
use abi::{Rights, Selector, Status, kind};

/// What is signalled.
#[derive(Clone, Copy)]
pub struct Target {
    /// The notification.
    pub notification: Ref<Notification>,
    /// Its bits: the badge of the capability.
    pub bits: u64,
}

/// A binding that is about to be made.
pub struct Binding {
    source: Ref<Slot>,
    through: Ref<Slot>,
    /// What is signalled.
    pub target: Target,
}

impl Binding {
    /// With the capabilities of `caller` at `source`, which names what signals, and `notification`.
    #[inline(never)]
    pub fn new(
        caller: &Domain,
        source: Selector,
        notification: Cap<kind::Notification, SIGNAL>,
    ) -> Result<Binding, Status> {
        let source = caller.slot(source).ok_or(Status::BadCapability)?;
        let held = caller.held(notification)?;
        let target =
            Target { notification: held.object, bits: held.slot.first.load(Ordering::Relaxed) };
        Ok(Binding { source, through: held.slot, target })
    }

    /// What signals knows its target now.
    #[inline(never)]
    pub fn note(&self, tree: &Tree) {
        let through = self.through.link().into();
        self.source.done.store(through, Ordering::Relaxed);
        self.source.join_list(tree, self.through.bindings());
    }

    /// Position of the capability to what signals.
    pub fn link(&self) -> u32 {
        self.source.link()
    }
}

/// Ends what is bound with the capability in `source`, which is or was `word`.
pub fn unbind(tree: &Tree, source: &Slot, word: CapWord) {
    let through = source.done.swap(0, Ordering::Relaxed) as u32;
    let Some(through) = Slot::from_link(through) else {
        return;
    };
    source.leave_list(tree, through.bindings());
    if let Ok(interrupt) = resolve::<Interrupt>(word, Rights::empty()) {
        interrupt::unbind(interrupt);
    } else if let Ok(sched) = resolve::<Sched>(word, Rights::empty()) {
        overrun::unbind(sched);
    } else {
        logring::ignore();
    }
}

/// Ends one of the bindings that were made with a capability to a notification, which was withdrawn from `through`;
/// `false`: none is left.
pub fn unbind_one(tree: &Tree, through: &Slot) -> bool {
    let first = Slot::from_link(through.bindings().load(Ordering::Relaxed));
    if let Some(source) = first {
        unbind(tree, &source, source.word());
    }
    first.is_some()
}

/// The capability `word` was withdrawn from `slot`: what it was needed for ends, but for what is bound to a
/// notification, which [`unbind_one`] ends.
pub fn withdrawn(tree: &Tree, slot: &Slot, word: CapWord) {
    if matches!(word.kind(), Kind::Interrupt | Kind::Sched | Kind::Log) {
        unbind(tree, slot, word);
    } else if let Some(notification) = awaited(word) {
        notification::end_through(notification, slot.link());
    }
}

/// The capability `word`, with which nothing is bound, was moved from `slot` to `to`: who waits or is kicked with it goes on.
pub fn moved(_tree: &Tree, slot: &Slot, to: &Slot, word: CapWord) {
    if let Some(notification) = awaited(word) {
        notification.moved(slot.link(), to.link());
    }
}

/// The notification that somebody may wait for or be kicked by with `word`, which was withdrawn from its slot.
#[inline(never)]
fn awaited(word: CapWord) -> Option<Ref<Notification>> {
    // Who begins to wait looks whether the capability is still there, after that was noted.
    fence(Ordering::SeqCst);
    match resolve::<Vcpu>(word, Rights::empty()) {
        Ok(vcpu) => vcpu.context.notification.get(),
        Err(_) => resolve(word, Rights::empty()).ok(),
    }
}
