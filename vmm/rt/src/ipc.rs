//! Synchronous IPC: messages and calls.
use crate::arch::{self, Registers};
use crate::syscall::Result;
use abi::utcb::{ITEMS, Item, REGISTER_WORDS, WORDS, Window};
use abi::{Op, Selector, Status, Tag, call};
use core::ptr::NonNull;

/// Words of a short message.
pub type Words = [u64; REGISTER_WORDS];

/// A thread's UTCB: message words that it shares with the kernel. Not `Clone`: only its thread uses it.
#[derive(Debug)]
pub struct Utcb {
    page: NonNull<abi::utcb::Utcb>,
    /// Words of the reply that was sent last.
    pub(crate) sent: u16,
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
        Utcb { page: NonNull::new(page).unwrap_or(NonNull::dangling()), sent: 0 }
    }

    /// Says where capabilities go that others send to this thread.
    pub fn set_window(&mut self, window: Window) {
        // SAFETY: `new`'s promise.
        unsafe { (&raw mut (*self.page.as_ptr()).window).write_volatile(window.to_word()) }
    }

    /// Makes `item` number `number` (0 to [`ITEMS`] − 1) of the next message; without effect outside of that range.
    pub fn set_item(&mut self, number: usize, item: Item) {
        if number < ITEMS {
            for (i, word) in item.to_words().into_iter().enumerate() {
                self.write(Item::place(number) + i, word);
            }
        }
    }

    fn word(&self, index: usize) -> *mut u64 {
        // SAFETY: the address arithmetic stays inside the page: callers have checked the index.
        unsafe { (&raw mut (*self.page.as_ptr()).words).cast::<u64>().add(index) }
    }

    /// Word `index`; 0 outside the message area.
    pub fn read(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: `new`'s promise and the check above.
        unsafe { self.word(index).read_volatile() }
    }

    /// Sets word `index`; without effect outside the message area.
    pub fn write(&mut self, index: usize, value: u64) {
        if index < WORDS {
            // SAFETY: `new`'s promise and the check above.
            unsafe { self.word(index).write_volatile(value) }
        }
    }
}

/// Calls `portal` with a short message and returns the short reply.
#[inline(always)]
pub fn call(portal: Selector, words: Words) -> Result<Words> {
    let r = arch::call_portal(Registers::new(&request(portal, words)));
    Ok(r.results::<call::Call>()?.message)
}

/// A call without words in the UTCB.
#[inline(always)]
fn request(portal: Selector, message: Words) -> call::Call {
    let portal = portal.into();
    call::Call { portal, message }
}

/// A long message or reply, beside its words in registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// Words in the UTCB.
    pub words: usize,
    /// Capabilities: those that [`Utcb::set_item`] has put there, or that came into the window ([`Utcb::set_window`]).
    pub items: usize,
}

/// Calls `portal` with a short message and what `length` says of the caller's UTCB; returns the short reply and
/// what of the UTCB belongs to it.
pub fn call_long(
    portal: Selector,
    words: Words,
    _utcb: &mut Utcb,
    length: Length,
) -> Result<(Words, Length)> {
    if length.items > ITEMS || length.words > Item::words_beside(length.items) {
        return Err(Status::BadArgument);
    }
    let tag = Tag::new(Op::Call, length.words as u16).with_items(length.items);
    let r = arch::call_portal(Registers { tag: tag.0, ..Registers::new(&request(portal, words)) });
    let (tag, reply) = (Tag(r.tag), r.results::<call::Call>()?);
    let length = Length { words: tag.utcb_words(), items: tag.items() };
    Ok((reply.message, length))
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
    /// Capabilities that came with it, into the handler's window.
    pub items: usize,
    /// Capabilities of the reply, from the UTCB; 0 unless the handler says so. A client that has no room for them gets the reply
    /// without them.
    pub reply_items: usize,
}
