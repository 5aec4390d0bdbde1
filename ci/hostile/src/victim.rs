//! What runs in a hostile domain. Only its stacks are writable there.

use crate::arch::{self, FLAGS, entry, moves};
use crate::calls::{self, Call, Targets, table};
use crate::monitor;
use crate::place::{self, Control, Twice};
use crate::random::{Random, mix};
use abi::utcb::exception::ExceptionReply;
use abi::utcb::{ITEMS, Item, Utcb, Window};
use abi::vcpu::EXIT_KINDS;
use abi::{Op, Selector, Tag};
use rt::arch::{Registers, counter};

struct Thread {
    control: *mut Control,
    random: Random,
}

impl Thread {
    fn targets(&self) -> Targets {
        // SAFETY: the driver has mapped and filled the control block; a thread without one faults.
        let cpus = unsafe { (&raw const (*self.control).cpus).read_volatile() };
        Targets {
            entry: entry as *const () as u64,
            stacks: place::MEMORY + place::control(0),
            stack_step: place::STACK,
            unused: place::UNUSED,
            now: counter(),
            cpus,
        }
    }

    fn make(&mut self, call: Call) -> Registers {
        // SAFETY: as above. The state is there when the thread starts anew after what follows.
        unsafe {
            (&raw mut (*self.control).seed).write_volatile(self.random.0);
            let calls = &raw mut (*self.control).calls;
            Twice::write(calls, Twice::read(calls) + 1);
        }
        let sets_registers = call.arguments[1] & ExceptionReply::SET_GPRS.bits() != 0;
        if Tag(call.tag).op() == Op::ReplyWait as u8 && sets_registers {
            // Whoever is resumed so has a result that no kernel gave it.
            let utcb = self.utcb();
            // SAFETY: as for `scribble`.
            unsafe { (&raw mut (*utcb).words[arch::KEPT]).write_volatile(0) };
        }
        let mut words = [0; 8];
        words.copy_from_slice(&call.arguments[1..]);
        let (result, tag) =
            arch::system_call(Registers { tag: call.tag, first: call.arguments[0], words });
        let undeclared = tag != 0 && !calls::is_declared(Tag(tag), Tag(result.tag));
        // SAFETY: as above.
        unsafe {
            if undeclared {
                let both = tag & u64::from(u32::MAX) | result.tag << 32;
                Twice::write(&raw mut (*self.control).undeclared, both);
            }
            let digest = &raw mut (*self.control).digest;
            digest.write_volatile(mix(digest.read_volatile() ^ result.tag));
        }
        result
    }

    /// The thread's UTCB, which is there unless somebody has taken it away.
    fn utcb(&self) -> *mut Utcb {
        // SAFETY: as above.
        let number = unsafe { (&raw const (*self.control).number).read_volatile() };
        (place::UTCBS + number * 4096) as *mut Utcb
    }

    /// Says something of capabilities in messages in the thread's UTCB.
    fn scribble(&mut self) {
        let utcb = self.utcb();
        // SAFETY: the page is the kernel's, of any value, or it is not there, and the thread faults.
        unsafe {
            let window = Window {
                base: self.random.below(table::SLOTS) as u32,
                slots: self.random.below(6) as u32,
            };
            (&raw mut (*utcb).window).write_volatile(window.to_word());
            for number in 0..self.random.below(ITEMS as u64 + 1) as usize {
                let item = Item {
                    source: Selector(self.random.below(table::SLOTS) as u32),
                    rights: self.random.word() as u16,
                    flags: self.random.below(2) as u16,
                    first: self.random.below(4) << 12,
                    second: 1 << self.random.below(16),
                };
                for (i, word) in item.to_words().into_iter().enumerate() {
                    (&raw mut (*utcb).words[Item::place(number) + i]).write_volatile(word);
                }
            }
        }
    }

    fn step(&mut self) {
        if self.random.one_in(24) {
            // SAFETY: as above.
            unsafe { (&raw mut (*self.control).seed).write_volatile(self.random.0) };
            return moves::make(&mut self.random);
        }
        if self.random.one_in(16) {
            self.scribble();
        }
        let targets = self.targets();
        let call = calls::next(&mut self.random, &targets);
        self.make(call);
    }

    /// Takes calls, exceptions and exits for ever. The identity tells which.
    fn handle(&mut self, next: u64) {
        let mut answer = Call { tag: Tag::new(Op::ReplyWait, 0).0, arguments: [0; 9] };
        loop {
            let message = self.make(answer);
            answer = Call { tag: Tag::new(Op::ReplyWait, 0).0, arguments: [0; 9] };
            if self.random.one_in(16) {
                self.step();
            }
            if self.random.one_in(16) {
                answer.tag = Tag::new(Op::ReplyWait, self.random.below(506) as u16).0;
            }
            let identity = message.first;
            if identity < EXIT_KINDS as u64 {
                answer.arguments[1] =
                    monitor::answer(&mut self.random, message.words[0], counter());
            } else if (place::MEMORY..place::MEMORY + place::AREA).contains(&identity) {
                // Resume at the start, or do something unreasonable.
                let anew = (ExceptionReply::RESUME | ExceptionReply::SET_FRAME).bits();
                answer.arguments[1] = anew;
                answer.arguments[4] = entry as *const () as u64;
                answer.arguments[5] = identity;
                answer.arguments[6] =
                    if self.random.one_in(8) { self.random.word() } else { FLAGS };
                if self.random.one_in(8) {
                    answer.arguments[1] |= self.random.edge() & !1 | 1;
                    let at = 4 + self.random.below(3) as usize;
                    answer.arguments[at] = self.random.edge();
                }
                if self.random.one_in(64) {
                    answer.arguments[1] = self.random.edge();
                }
            } else {
                for word in &mut answer.arguments[1..] {
                    *word = self.random.edge();
                }
                if next != 0 && !self.random.one_in(8) {
                    let mut arguments = answer.arguments;
                    arguments[0] = next;
                    self.make(Call { tag: Tag::new(Op::Call, 0).0, arguments });
                }
            }
        }
    }
}

/// Called by the entry code.
pub(crate) extern "C" fn main(control: *mut Control) -> ! {
    // SAFETY: as in `Thread::targets`.
    let (seed, role, next) = unsafe {
        (
            (&raw const (*control).seed).read_volatile(),
            (&raw const (*control).role).read_volatile(),
            (&raw const (*control).next).read_volatile(),
        )
    };
    // Where it starts anew, it goes on with other numbers than those that led it there.
    let mut random = Random(seed);
    let next_seed = random.word();
    // SAFETY: as above.
    unsafe { (&raw mut (*control).seed).write_volatile(next_seed) };
    let mut thread = Thread { control, random };
    if role == 1 {
        thread.handle(next);
    }
    // The first link of the chain of calls.
    if next != 0 && thread.random.one_in(2) {
        thread
            .make(Call { tag: Tag::new(Op::Call, 0).0, arguments: [next, 0, 0, 0, 0, 0, 0, 0, 0] });
    }
    loop {
        thread.step();
        if thread.random.one_in(4) {
            let portal = table::PORTALS + thread.random.below(table::MOST_THREADS);
            let words = thread.random.below(3) as u16;
            let arguments = [portal, 0, 0, 0, 0, 0, 0, 0, 0];
            thread.make(Call { tag: Tag::new(Op::Call, words).0, arguments });
        }
    }
}
