//! Synchronous IPC: messages and calls.
use crate::arch::{self, Registers};
use crate::syscall::Result;
use abi::utcb::{REGISTER_WORDS, WORDS};
use abi::{Op, Selector, Status, Tag};
use core::ptr::NonNull;

/// Words of a short message.
pub type Words = [u64; REGISTER_WORDS];

/// A thread's UTCB: message words that it shares with the kernel. Not `Clone`: only its thread uses it.
#[derive(Debug)]
pub struct Utcb {
    words: NonNull<u64>,
}

// SAFETY: a UTCB handle may move to its thread before that runs; it is not `Sync`.
unsafe impl Send for Utcb {}

impl Utcb {
    /// The UTCB at `address`.
    ///
    /// # Safety
    /// `address` is that of a mapped UTCB page (or equal memory, in tests), which nothing else in this
    /// program accesses while the handle exists.
    pub unsafe fn new(address: u64) -> Utcb {
        let page = address as *mut abi::utcb::Utcb;
        // SAFETY: the address arithmetic stays inside the page of the caller's promise.
        let words = unsafe { (&raw mut (*page).words).cast::<u64>() };
        Utcb {
            words: NonNull::new(words).unwrap_or(NonNull::dangling()),
        }
    }

    /// Word `index`; 0 outside the message area.
    pub fn read(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: `new`'s promise and the check above.
        unsafe { self.words.add(index).read_volatile() }
    }

    /// Sets word `index`; without effect outside the message area.
    pub fn write(&mut self, index: usize, value: u64) {
        if index < WORDS {
            // SAFETY: `new`'s promise and the check above.
            unsafe { self.words.add(index).write_volatile(value) }
        }
    }
}

/// Calls `portal` with a short message and returns the short reply.
#[inline(always)]
pub fn call(portal: Selector, words: Words) -> Result<Words> {
    let r = arch::call_portal(Registers {
        tag: Tag::new(Op::Call, 0).0,
        first: portal.0.into(),
        words,
    });
    match Tag(r.tag).status() {
        Status::Success => Ok(r.words),
        status => Err(status),
    }
}

/// Calls `portal` with a short message and the first `count` words of the caller's UTCB; returns the short
/// reply and the number of words in the UTCB.
pub fn call_long(
    portal: Selector,
    words: Words,
    _utcb: &mut Utcb,
    count: usize,
) -> Result<(Words, usize)> {
    if count > WORDS {
        return Err(Status::BadArgument);
    }
    let r = arch::call_portal(Registers {
        tag: Tag::new(Op::Call, count as u16).0,
        first: portal.0.into(),
        words,
    });
    match Tag(r.tag).status() {
        Status::Success => Ok((r.words, Tag(r.tag).utcb_words())),
        status => Err(status),
    }
}

/// A message that a handler received, and then its reply.
#[derive(Debug)]
pub struct Message<'a> {
    /// Identity of the portal that was called; clients cannot forge it.
    pub identity: u64,
    /// The words in registers: the message, and on return of the handler the reply.
    pub words: &'a mut Words,
    /// The handler's UTCB.
    pub utcb: &'a mut Utcb,
    /// Words in the UTCB: of the message, and on return of the handler of the reply.
    pub utcb_words: usize,
}
