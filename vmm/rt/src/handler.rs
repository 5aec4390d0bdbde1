//! Handler threads: passive threads that serve portals on their callers' time.
//!
//! A handler thread has no scheduling context. It starts at [`arch::handler_entry`] with its first call;
//! the address of its [`Context`] lies at the top of its stack.
//!
//! Threads of one CPU preempt each other, and a handler runs with its caller's priority: code that runs
//! in handlers takes no lock that another thread of the same CPU may hold, and allocates nothing.
use crate::arch::{self, Registers};
use crate::ipc::{Message, Utcb};
use crate::thread::Stack;
use abi::utcb::Item;
use abi::{Op, Status, Tag};
use alloc::boxed::Box;

/// What a handler thread knows of itself.
#[cfg_attr(not(any(target_os = "none", test)), allow(dead_code))]
pub struct Context {
    utcb: Utcb,
    serve: unsafe fn(*const (), &mut Message<'_>),
    service: *const (),
}

struct Service<T: 'static> {
    data: &'static T,
    function: fn(&T, &mut Message<'_>),
}

/// Where a handler thread starts: the arguments of its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Address of its UTCB.
    pub utcb: u64,
}

/// Prepares a handler thread, to be created by this program or by the supervisor: `function` serves each
/// message with `data`. `utcb` is an unused page address. What is allocated here lives for ever.
pub fn prepare<T: Sync>(
    stack: Stack,
    utcb: u64,
    data: &'static T,
    function: fn(&T, &mut Message<'_>),
) -> Entry {
    let service: &'static Service<T> = Box::leak(Box::new(Service { data, function }));
    let context = Box::leak(Box::new(Context {
        // SAFETY: the kernel maps the UTCB there when the thread is created, before it runs; only this
        // context, which belongs to the thread, has the handle.
        utcb: unsafe { Utcb::new(utcb) },
        serve: serve::<T>,
        service: (&raw const *service).cast(),
    }));
    let sp = stack.start_with(&raw mut *context as u64);
    Entry { ip: arch::handler_entry as *const () as u64, sp, utcb }
}

/// # Safety
/// `service` points to a `Service<T>`.
unsafe fn serve<T: 'static>(service: *const (), message: &mut Message<'_>) {
    // SAFETY: the caller's promise; a service lives for ever.
    let service = unsafe { &*service.cast::<Service<T>>() };
    (service.function)(service.data, message);
}

/// Called by the entry code for each message; leaves the reply, as `ReplyWait` takes it, in `registers`.
#[cfg_attr(not(any(target_os = "none", test)), allow(dead_code))]
pub(crate) extern "C" fn dispatch(context: &mut Context, registers: &mut Registers) {
    let Context { utcb, serve, service } = context;
    // SAFETY: `prepare` made the pair.
    answer(utcb, registers, |message| unsafe { serve(*service, message) });
}

/// Serves the portals of this thread for ever, from now on: for a thread that has something to do first.
pub fn serve_for_ever<T>(utcb: Utcb, state: T, function: impl Fn(&mut T, &mut Message<'_>)) -> ! {
    let (mut utcb, mut state) = (utcb, state);
    let mut registers = Registers { tag: Tag::new(Op::ReplyWait, 0).0, ..Registers::default() };
    loop {
        registers = arch::call_portal(registers);
        answer(&mut utcb, &mut registers, |message| function(&mut state, message));
    }
}

/// Has the message in `registers` served; leaves the reply there, as `ReplyWait` takes it.
fn answer(utcb: &mut Utcb, registers: &mut Registers, serve: impl FnOnce(&mut Message<'_>)) {
    let tag = Tag(registers.tag);
    // Well-formed replies fail for their capabilities only: it goes without them.
    if tag.status() != Status::Success {
        registers.tag = Tag::new(Op::ReplyWait, utcb.sent).0;
        return;
    }
    let mut message = Message {
        identity: registers.first,
        words: &mut registers.words,
        utcb,
        utcb_words: tag.utcb_words().min(abi::utcb::WORDS),
        items: tag.items(),
        reply_items: 0,
    };
    serve(&mut message);
    let items = message.reply_items.min(abi::utcb::ITEMS);
    let words = message.utcb_words.min(Item::words_beside(items)) as u16;
    message.utcb.sent = words;
    registers.tag = Tag::new(Op::ReplyWait, words).with_items(items).0;
}

#[cfg(test)]
mod tests {
    use super::*;

    static TOTAL: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

    #[test]
    fn a_message_reaches_the_function_and_its_answer_returns() {
        let page: &'static mut [u64] = Box::leak(vec![0u64; 1024].into_boxed_slice());
        let utcb = (page.as_ptr() as u64).next_multiple_of(4096);
        let entry = prepare(Stack::allocate(4096), utcb, &TOTAL, |total, message| {
            total.fetch_add(message.words[0], core::sync::atomic::Ordering::Relaxed);
            message.words[1] = message.identity;
            message.utcb.write(503, 9);
            message.utcb.write(504, 9);
            message.utcb_words = 7;
        });
        assert_eq!(entry.sp % 16, 0);
        // SAFETY: `prepare` stored the address of the context, which lives for ever.
        let context = unsafe { &mut **(entry.sp as *const *mut Context) };
        let mut registers = Registers { first: 42, ..Registers::default() };
        registers.words[0] = 5;
        dispatch(context, &mut registers);
        assert_eq!(registers.words[..2], [5, 42]);
        assert_eq!(registers.tag, Tag::new(Op::ReplyWait, 7).0);
        assert_eq!(TOTAL.load(core::sync::atomic::Ordering::Relaxed), 5);
        assert_eq!((context.utcb.read(503), context.utcb.read(504)), (9, 0));
    }
}
