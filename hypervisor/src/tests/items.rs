//! Capabilities in messages.

use super::world::{RAM, RAM_BASE, World};
use super::{Object, Running};
use crate::thread::Thread;
use abi::cap::Kind;
use abi::syscall::{DelegateFlags, Tag};
use abi::utcb::{ITEM_WORDS, ITEMS, Item, Window};
use abi::{Op, Rights, Selector, Status};
use core::sync::atomic::Ordering;

/// Index of the first message word in a UTCB page.
const HEAD: usize = 8;

pub fn memory(source: u64, page: u64) -> Item {
    Item {
        source: Selector(source as u32),
        rights: (Rights::READ | Rights::DELEGATE).bits(),
        flags: 0,
        first: page << 12,
        second: 0x1000,
    }
}

pub fn granted(source: u64) -> Item {
    Item { flags: DelegateFlags::GRANT.bits() as u16, ..memory(source, 0) }
}

pub fn put(thread: Object<Thread>, items: &[Item]) {
    for (number, item) in items.iter().enumerate() {
        for (i, word) in item.to_words().into_iter().enumerate() {
            thread.object.utcb.write(HEAD + Item::place(number) + i, word);
        }
    }
}

/// Opens a window of `slots` new selectors; returns the first.
pub fn open(w: &World, thread: Object<Thread>, slots: u32) -> u32 {
    let all: Vec<u32> = (0..slots.max(1)).map(|_| w.selector()).collect();
    let base = all[0];
    thread.object.utcb.write(0, Window { base, slots }.to_word());
    base
}

/// Kind, rights and first word of the capability at `at`.
fn cap(w: &World, at: u32) -> (Kind, Rights, u64) {
    let slot = w.root.slot(Selector(at)).unwrap();
    let word = slot.word();
    (word.kind(), word.rights(), slot.first.load(Ordering::Relaxed))
}

fn is_empty(w: &World, at: u32) -> bool {
    cap(w, at).0 == Kind::Null
}

struct Pair {
    w: World,
    client: Object<Thread>,
    server: Object<Thread>,
    portal: u64,
}

impl Pair {
    fn new() -> Pair {
        let w = World::new(1);
        let (client, server) = (w.client(0, 10), w.thread(0));
        let portal = w.portal(server, 7);
        assert_eq!(w.run(0), Running::User(client.object));
        Pair { w, client, server, portal }
    }

    fn call(&self, items: &[Item]) -> Running {
        self.call_with(items, items.len(), 0)
    }

    fn call_with(&self, items: &[Item], count: usize, words: u16) -> Running {
        put(self.client, items);
        let tag = Tag::new(Op::Call, words).with_items(count);
        self.w.begin_with(self.client.object, tag, &[self.portal, 5]);
        self.w.run(0)
    }

    fn reply(&self, items: &[Item]) -> Running {
        put(self.server, items);
        let tag = Tag::new(Op::ReplyWait, 0).with_items(items.len());
        self.w.begin_with(self.server.object, tag, &[0, 6]);
        self.w.run(0)
    }

    fn items_of(&self, thread: Object<Thread>) -> usize {
        thread.object.with_frame(|frame| frame.tag().items())
    }
}

#[test]
fn capabilities_travel_with_calls_and_replies() {
    let p = Pair::new();
    let n = p.w.notification();
    let (theirs, ours) = (open(&p.w, p.server, 3), open(&p.w, p.client, 1));
    let signal = Item {
        source: Selector(n as u32),
        rights: (Rights::SIGNAL | Rights::WAIT).bits(),
        flags: 0,
        first: 0b100,
        second: 0,
    };
    let server = Running::User(p.server.object);
    assert_eq!(p.call(&[memory(RAM.into(), 3), signal]), server);
    assert_eq!(p.items_of(p.server), 2);
    let rights = Rights::READ | Rights::DELEGATE;
    assert_eq!(cap(&p.w, theirs), (Kind::Memory, rights, RAM_BASE + 0x3000));
    let rights = Rights::SIGNAL | Rights::WAIT;
    assert_eq!(cap(&p.w, theirs + 1), (Kind::Notification, rights, 0b100));
    assert!(is_empty(&p.w, theirs + 2));
    // The part of a part comes back; then all is taken back where it came from.
    let back = Item { rights: Rights::all().bits(), ..memory(theirs.into(), 0) };
    assert_eq!(p.reply(&[back]), Running::User(p.client.object));
    assert_eq!(p.items_of(p.client), 1);
    let rights = Rights::READ | Rights::DELEGATE;
    assert_eq!(cap(&p.w, ours), (Kind::Memory, rights, RAM_BASE + 0x3000));
    p.w.root(Op::Revoke, &[RAM.into()]);
    assert!(is_empty(&p.w, theirs) && is_empty(&p.w, ours));
    assert!(!is_empty(&p.w, theirs + 1));
    assert_eq!(p.call(&[]), server);
    assert_eq!(p.items_of(p.server), 0);
}

#[test]
fn all_capabilities_of_a_message_or_none() {
    let p = Pair::new();
    let part = p.w.selector() as u64;
    p.w.root(Op::Delegate, &[RAM.into(), 1, part, 0x87, 0, 0x1000]);
    let fails = |items: &[Item], why| {
        assert_eq!(p.call(items), Running::User(p.client.object), "{why:?}");
        assert_eq!(p.w.result(p.client).map(|_| ()), Err(why));
    };
    let good = memory(RAM.into(), 0);
    fails(&[good], Status::NoWindow);
    let theirs = open(&p.w, p.server, 2);
    fails(&[good, good, good], Status::NoWindow);
    fails(&[good, memory(999, 0)], Status::BadCapability);
    fails(&[good, memory(RAM.into(), 1 << 40)], Status::BadArgument);
    fails(&[good, granted(RAM.into())], Status::Busy);
    fails(&[granted(part), granted(part)], Status::BadArgument);
    fails(&[granted(part), memory(part, 0)], Status::BadArgument);
    let odd = Item { flags: 2, ..good };
    fails(&[odd], Status::BadArgument);
    // The second slot is in use.
    let used = theirs as u64 + 1;
    p.w.root(Op::Delegate, &[RAM.into(), 1, used, 0x81, 0, 0x1000]);
    fails(&[good, good], Status::Occupied);
    // A window outside of the table, or at the slot that is none.
    for base in [1023, u32::MAX, 0] {
        let window = Window { base, slots: 2 };
        p.server.object.utcb.write(0, window.to_word());
        fails(&[good, good], Status::BadSelector);
    }
    assert!(is_empty(&p.w, theirs) && !is_empty(&p.w, part as u32));
    // Words and capabilities share the UTCB.
    let most = Item::words_beside(1) as u16;
    assert_eq!(most as usize, abi::utcb::WORDS - ITEM_WORDS);
    for (count, words) in [(1, most + 1), (ITEMS + 1, 0), (15, 0)] {
        assert_eq!(p.call_with(&[good], count, words), Running::User(p.client.object));
        assert_eq!(p.w.result(p.client).map(|_| ()), Err(Status::BadArgument));
    }
    let window = Window { base: theirs, slots: 1 };
    p.server.object.utcb.write(0, window.to_word());
    assert_eq!(p.call_with(&[granted(part)], 1, most), Running::User(p.server.object));
    assert!(is_empty(&p.w, part as u32) && !is_empty(&p.w, theirs));
}

#[test]
fn a_reply_that_cannot_give_its_capabilities_is_none() {
    let p = Pair::new();
    let server = Running::User(p.server.object);
    assert_eq!(p.call(&[]), server);
    assert_eq!(p.reply(&[memory(RAM.into(), 0)]), server);
    assert_eq!(p.w.result(p.server).map(|_| ()), Err(Status::NoWindow));
    // The caller still waits.
    assert_eq!(p.reply(&[]), Running::User(p.client.object));
    assert_eq!(p.w.result(p.client).map(|words| words[1]), Ok(6));
}

#[test]
fn who_finds_the_handler_busy_gives_its_capabilities_once() {
    let p = Pair::new();
    let theirs = open(&p.w, p.server, 2);
    let (server, client) = (Running::User(p.server.object), Running::User(p.client.object));
    let other = p.w.client(0, 20);
    assert_eq!(p.w.run(0), Running::User(other.object));
    assert_eq!(p.w.does(other, Op::Call, &[p.portal]), server);
    let n = p.w.notification();
    assert_eq!(p.w.does(p.server, Op::Wait, &[n, u64::MAX]), client);
    // It is blocked: the call waits, and nothing was given.
    assert_eq!(p.call(&[memory(RAM.into(), 0)]), Running::Idle);
    assert!(is_empty(&p.w, theirs));
    p.w.root(Op::Signal, &[n]);
    assert_eq!(p.w.run(0), server);
    assert_eq!(p.reply(&[]), Running::User(other.object));
    let m = p.w.notification();
    // The call is made again.
    assert_eq!(p.w.does(other, Op::Wait, &[m, u64::MAX]), server);
    assert!(!is_empty(&p.w, theirs) && is_empty(&p.w, theirs + 1));
}
