//! A foreign thread makes system calls for ever; its handler sets its registers, and looks whether they arrive so.

use crate::arch::{self, CALL_LENGTH, FIRST, FIXED_FLAGS, FLAGS, GPRS, NUMBER};
use abi::Op;
use rt::exception::{self, Exception, ExceptionReply};
use rt::ipc::Message;

/// The handler's expectations.
#[derive(Debug)]
pub struct Probe {
    round: u64,
    gprs: [u64; GPRS],
    sp: u64,
    flags: u64,
    /// Whether the thread was started by a message here yet.
    begun: bool,
}

/// A number that looks like none else.
fn pattern(round: u64, index: usize) -> u64 {
    (round << 8 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Probe {
    /// Nothing expected yet.
    pub const fn new() -> Probe {
        Probe { round: 0, gprs: [0; GPRS], sp: 0, flags: 0, begun: false }
    }

    /// Rounds that went well.
    pub fn rounds(&self) -> u64 {
        self.round
    }

    /// Checks the registers in the message, and sets others. `false`: they are not as they should be.
    pub fn serve(&mut self, message: &mut Message<'_>) -> bool {
        message.utcb_words = 0;
        let exception = Exception::from_words(message.words);
        let ip = arch::foreign as *const () as u64 + CALL_LENGTH;
        let mut expected = self.gprs;
        arch::set_by_processor(&mut expected, &exception);
        let received: [u64; GPRS] = core::array::from_fn(|i| message.utcb.read(i));
        let good = exception.is_system_call()
            && exception.ip == ip
            && exception.sp == self.sp
            && exception.flags == self.flags
            && received == expected;
        if self.begun && !good {
            exception::stop(message.words);
            return false;
        }
        self.begun = true;
        self.round += 1;
        let reply = self.choose(&exception);
        for (i, &value) in self.gprs.iter().enumerate() {
            message.utcb.write(i, value);
        }
        message.words[4] = self.sp;
        message.words[5] = self.flags;
        exception::resume(message.words, reply);
        true
    }

    /// Chooses what the thread goes on with, and how it is set.
    fn choose(&mut self, exception: &Exception) -> ExceptionReply {
        let round = self.round;
        match round % 4 {
            // As it was: everything expected again.
            0 => return ExceptionReply::empty(),
            1 => (self.sp, self.flags) = (exception.sp, exception.flags),
            _ => {
                self.sp = (pattern(round, GPRS) % abi::USER_END) & !0xf;
                self.flags = pattern(round, GPRS + 1) >> 7 & FLAGS | FIXED_FLAGS;
            }
        }
        self.gprs = core::array::from_fn(|i| pattern(round, i));
        // Numbers and arguments that the kernel would take.
        let known = Op::ALL.len() as u64;
        if !round.is_multiple_of(7) {
            self.gprs[NUMBER] = round / 2 % (known + 2);
            self.gprs[FIRST] = pattern(round, 99) >> 40 & 15;
        }
        if round % 4 == 1 {
            ExceptionReply::SET_GPRS
        } else {
            ExceptionReply::SET_GPRS | ExceptionReply::SET_FRAME
        }
    }
}

impl Default for Probe {
    fn default() -> Probe {
        Probe::new()
    }
}
