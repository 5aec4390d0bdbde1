//! Bindings: what signals a notification of itself. An interrupt line, the overruns of a scheduling context and the log
//! are bound with two capabilities, theirs and one to the notification, and the binding ends with either. So do waits, with
//! the capability that they were begun with, and a vCPU's kick.
//!
//! What is bound with a capability to a notification is a list of the other capabilities that starts there. It changes
//! under the tree's lock.

use crate::cell::Ref;
use crate::domain::resolve;
use crate::interrupt;
use crate::logring;
use crate::lookup::Held;
use crate::notification::{self, Notification};
use crate::overrun;
use crate::sched::Sched;
use crate::slot::{CapWord, List, Slot, Tree};
use crate::sync::atomic::{Ordering, fence};
use crate::syscall::Caller;
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

/// Binds what the capability at `source` names to `notification`: `bind` lets it know its target, and that capability's
/// position.
#[inline(never)]
pub fn bind(
    caller: &Caller,
    source: Selector,
    notification: Cap<kind::Notification, SIGNAL>,
    bind: &dyn Fn(Target, u32) -> Result<(), Status>,
) -> Result<(), Status> {
    let source = caller.domain.slot(source).ok_or(Status::BadCapability)?;
    let Held { slot: through, object: notification, .. } = caller.domain.held(notification)?;
    let bits = through.first.load(Ordering::Relaxed);
    bind(Target { notification, bits }, source.link())?;
    source.done.store(through.link().into(), Ordering::Relaxed);
    source.join(caller.tree, List::Bound, through.bindings());
    Ok(())
}

/// Ends what is bound with the capability in `source`, which is or was `word`.
pub fn unbind(tree: &Tree, source: &Slot, word: CapWord) {
    let through = source.done.swap(0, Ordering::Relaxed) as u32;
    let Some(through) = Slot::from_link(through) else {
        return;
    };
    source.leave(tree, List::Bound, through.bindings());
    if word.is(Kind::Interrupt) {
        interrupt::unbind(interrupt::line(word.address()));
    } else if let Ok(sched) = resolve::<Sched>(word, Rights::empty()) {
        overrun::unbind(sched);
    } else {
        logring::listen(None);
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
