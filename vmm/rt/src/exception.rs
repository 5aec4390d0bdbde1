//! Exceptions of threads, and system calls of foreign threads, as whoever handles them receives them.
use crate::ipc::Words;
pub use abi::utcb::exception::ExceptionReply;
use abi::utcb::exception::SYSTEM_CALL;

/// What a thread's handler is told; its general registers are in the UTCB ([`abi::utcb::exception`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The processor's vector or class, or [`SYSTEM_CALL`].
    pub vector: u64,
    /// Error code (x86), or ESR_EL2 (Arm).
    pub error: u64,
    /// Fault address.
    pub address: u64,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Flags.
    pub flags: u64,
}

/// How an instruction used the page that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It read.
    Read,
    /// It wrote.
    Write,
    /// It is there itself.
    Execute,
}

/// A page that is not mapped, or not so: mapped and resumed, the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address in the thread's space.
    pub address: u64,
    /// What was to be done there.
    pub access: Access,
}

impl Exception {
    /// The exception in a message.
    pub fn from_words(words: &Words) -> Exception {
        let [vector, error, address, ip, sp, flags, ..] = *words;
        Exception { vector, error, address, ip, sp, flags }
    }

    /// Whether it is a system call of a foreign thread.
    pub fn is_system_call(&self) -> bool {
        self.vector == SYSTEM_CALL
    }

    /// The page fault, if it is one.
    pub fn page_fault(&self) -> Option<PageFault> {
        let access = current::access(self.vector, self.error)?;
        Some(PageFault { address: self.address, access })
    }
}

/// The answer that resumes the thread, with what `reply` sets.
pub fn resume(words: &mut Words, reply: ExceptionReply) {
    words[0] = (ExceptionReply::RESUME | reply).bits();
}

/// The answer after which the thread never runs again.
pub fn stop(words: &mut Words) {
    words[0] = 0;
}

#[cfg(any(target_arch = "x86_64", test))]
mod x86_64 {
    use super::Access;

    const PAGE_FAULT: u64 = 14;
    const WRITE: u64 = 1 << 1;
    const RESERVED: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;

    /// What a page fault (Intel SDM vol. 3, 4.7) was about; the kernel sets no reserved bits.
    pub fn access(vector: u64, error: u64) -> Option<Access> {
        match vector {
            PAGE_FAULT if error & RESERVED != 0 => None,
            PAGE_FAULT if error & FETCH != 0 => Some(Access::Execute),
            PAGE_FAULT if error & WRITE != 0 => Some(Access::Write),
            PAGE_FAULT => Some(Access::Read),
            _ => None,
        }
    }
}

#[cfg(any(target_arch = "aarch64", test))]
mod aarch64 {
    use super::Access;

    const INSTRUCTION_ABORT: u64 = 0x20;
    const DATA_ABORT: u64 = 0x24;
    /// ISS.WnR, which is also set for cache maintenance (ISS.CM), that is no write.
    const WRITE: u64 = 1 << 6;
    const MAINTENANCE: u64 = 1 << 8;

    /// What a translation or permission fault (Arm ARM D17.2.37, ISS for aborts) was about.
    pub fn access(class: u64, syndrome: u64) -> Option<Access> {
        // Status codes 0b0001LL and 0b0011LL; LL is the level.
        if !matches!(syndrome >> 2 & 0xf, 0b0001 | 0b0011) {
            return None;
        }
        match class {
            INSTRUCTION_ABORT => Some(Access::Execute),
            DATA_ABORT if syndrome & (WRITE | MAINTENANCE) == WRITE => Some(Access::Write),
            DATA_ABORT => Some(Access::Read),
            _ => None,
        }
    }
}

#[cfg(target_arch = "aarch64")]
use aarch64 as current;
#[cfg(target_arch = "x86_64")]
use x86_64 as current;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_faults_and_what_are_none() {
        for (vector, error, access) in [
            (14, 0b00100, Some(Access::Read)),
            (14, 0b00111, Some(Access::Write)),
            (14, 0b10101, Some(Access::Execute)),
            (14, 0b01111, None),
            (13, 0b00111, None),
            (SYSTEM_CALL, 0b00111, None),
        ] {
            assert_eq!(x86_64::access(vector, error), access);
        }
        for (class, syndrome, access) in [
            (0x24, 0x9200_0007, Some(Access::Read)),
            (0x24, 0x9200_0047, Some(Access::Write)),
            (0x24, 0x9200_004f, Some(Access::Write)),
            (0x24, 0x9200_0147, Some(Access::Read)),
            (0x20, 0x8200_0006, Some(Access::Execute)),
            (0x24, 0x9200_0021, None),
            (0x24, 0x9200_0050, None),
            (0x15, 0x5600_0007, None),
        ] {
            assert_eq!(aarch64::access(class, syndrome), access);
        }
    }

    #[test]
    fn words_say_what_happened() {
        let exception = Exception::from_words(&[SYSTEM_CALL, 1, 2, 3, 4, 5, 0, 0]);
        assert!(exception.is_system_call());
        assert_eq!((exception.ip, exception.sp, exception.flags), (3, 4, 5));
        let mut words = [9; 8];
        resume(&mut words, ExceptionReply::SET_GPRS);
        assert_eq!(words[0], 5);
        stop(&mut words);
        assert_eq!(words[0], 0);
    }
}
