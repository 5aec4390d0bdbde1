//! Delegation of capabilities, by system call and in messages.

use crate::binding;
use crate::cell::Ref;
use crate::domain::Domain;
use crate::slot::{self, CapWord, ORIGIN, Slot, Tree};
use crate::space::{self, Progress};
use crate::sync::atomic::Ordering;
use crate::syscall::Caller;
use crate::thread::{MESSAGE, Thread};
use abi::argument::right::DELEGATE;
use abi::argument::{Cap, Destination};
use abi::cap::{Kind, TimeLimit};
use abi::syscall::DelegateFlags;
use abi::utcb::{ITEM_WORDS, ITEMS, Item, Window};
use abi::{Rights, Selector, Status, call, kind};

/// A delegation that was found to be in order; the tree is locked from then until it is carried out.
#[derive(Clone, Copy)]
struct Checked {
    source: Ref<Slot>,
    target: Ref<Slot>,
    grant: bool,
    /// What the new slot holds.
    word: CapWord,
    range: [u64; 2],
    extra: u64,
}

/// Finds out what a delegation of `source`, a capability of `giver`, to the empty slot `target` of `receiver` gives.
fn check(
    tree: &Tree,
    (giver, source): (&Domain, Cap<kind::Delegable, DELEGATE>),
    (receiver, target): (&Domain, Destination),
    rights: Rights,
    [from, size]: [u64; 2],
    flags: DelegateFlags,
) -> Result<Checked, Status> {
    let source = giver.holder(source)?;
    let word = source.word();
    let grant = flags.contains(DelegateFlags::GRANT);
    let target = receiver.empty_slot(target.0)?;
    let extra = source.extra.load(Ordering::Relaxed);
    let range = source.range();
    if grant {
        // What was derived or bound would change its parent, and an object its order of destruction.
        if source.first_child(tree).is_some() || source.is_bound() || extra & ORIGIN != 0 {
            return Err(Status::Busy);
        }
        return Ok(Checked { source, target, grant, word, range, extra });
    }
    let rights = rights & word.rights();
    let [first, second] = range;
    let (first, second) = match word.kind() {
        Kind::Memory => {
            let ports = space::is_ports(extra);
            let unit = if ports { 1 } else { abi::PAGE_SIZE as u64 };
            let inside = from.checked_add(size).is_some_and(|end| end <= second);
            if size == 0 || !inside || (from | size) & (unit - 1) != 0 {
                return Err(Status::BadArgument);
            }
            (first + from, size)
        }
        Kind::Notification if from & !first != 0 => return Err(Status::Denied),
        Kind::Notification => (from, 0),
        Kind::Time => {
            let (cpus, narrower) = (from, TimeLimit::unpack(size));
            let narrower = narrower.ok_or(Status::BadArgument)?;
            let inside = TimeLimit::unpack(second).is_some_and(|limit| limit.includes(narrower));
            if cpus & !first != 0 || !inside {
                return Err(Status::Denied);
            }
            (cpus, narrower.pack())
        }
        _ => (first, second),
    };
    Ok(Checked {
        source,
        target,
        grant,
        word: CapWord::new(word.kind(), rights, word.address()),
        range: [first, second],
        extra: extra & 0xff00,
    })
}

/// Carries out what was checked.
fn carry_out(tree: &Tree, checked: &Checked) {
    let target = &checked.target;
    if checked.grant {
        let source = &checked.source;
        source.move_to(tree, target);
        return binding::moved(tree, source, target, checked.word);
    }
    target.fill(tree, checked.word, checked.range, checked.extra);
    target.link_under(tree, &checked.source);
}

/// [`abi::Op::Delegate`].
pub fn delegate(caller: &Caller) -> Result<(), Status> {
    let call: call::Delegate = caller.arguments()?;
    let receiver = caller.domain.object(call.domain)?;
    let from = (caller.domain, call.capability);
    let to = (&*receiver, call.destination);
    let range = [call.first, call.second];
    let checked = check(caller.tree, from, to, call.rights, range, call.flags)?;
    carry_out(caller.tree, &checked);
    Ok(())
}

/// Delegates the `count` capabilities of the message of `from` to the window of `to`: all of them, or none. `Again`: none
/// yet, as another CPU changes the tree.
pub fn transfer(from: Ref<Thread>, to: Ref<Thread>, count: usize) -> Result<Progress, Status> {
    let window = Window::from_word(to.utcb.read(WINDOW));
    if count > (window.slots as usize).min(ITEMS) {
        return Err(Status::NoWindow);
    }
    let Some(tree) = slot::try_lock() else {
        return Ok(Progress::Again);
    };
    let mut all: [Option<Checked>; ITEMS] = [None; ITEMS];
    for number in 0..count {
        let at = MESSAGE + Item::place(number);
        let words = core::array::from_fn::<_, ITEM_WORDS, _>(|i| from.utcb.read(at + i));
        let item = Item::from_words(words);
        let giver = (&*from.domain, item.source.into());
        let place = Selector(window.base).offset(number as u32);
        let receiver = (&*to.domain, place.into());
        let (rights, flags) = item.terms().ok_or(Status::BadArgument)?;
        let range = [item.first, item.second];
        let checked = check(&tree, giver, receiver, rights, range, flags)?;
        // What is granted is not there any more for another item.
        let twice =
            |other: &Checked| other.source == checked.source && (other.grant || checked.grant);
        if all.iter().flatten().any(twice) {
            return Err(Status::BadArgument);
        }
        all[number] = Some(checked);
    }
    for checked in all.iter().flatten() {
        carry_out(&tree, checked);
    }
    Ok(Progress::Done)
}

/// Index of the window in a UTCB page.
const WINDOW: usize = core::mem::offset_of!(abi::utcb::Utcb, window) / 8;
