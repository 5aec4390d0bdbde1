//! Monitor to console server: register accesses of an emulated UART.
use super::{Refusal, outcome};
use crate::ipc::{self, Words};
use abi::Selector;

/// Number of a register: 16550, its offset from the first port (0 to 7); PL011, its byte offset divided by 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u16);

impl Register {
    /// Registers that a UART has at most.
    pub const COUNT: u64 = 1024;

    /// The register with this number, if there can be one.
    pub const fn new(index: u64) -> Option<Register> {
        if index < Register::COUNT { Some(Register(index as u16)) } else { None }
    }

    /// Its number.
    pub const fn index(self) -> u16 {
        self.0
    }
}

/// A request of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest read a register; the answer is its value.
    Read(Register),
    /// The guest wrote a register.
    Write(Register, u32),
}

impl Request {
    /// Message words.
    pub fn encode(self) -> Words {
        match self {
            Request::Read(register) => [0, register.0.into(), 0, 0, 0, 0, 0, 0],
            Request::Write(register, value) => [1, register.0.into(), value.into(), 0, 0, 0, 0, 0],
        }
    }

    /// The request in a message, which may say anything.
    pub fn decode(words: &Words) -> Option<Request> {
        let register = Register::new(words[1])?;
        match words[0] {
            0 => Some(Request::Read(register)),
            1 => Some(Request::Write(register, u32::try_from(words[2]).ok()?)),
            _ => None,
        }
    }
}

/// Message words of an answer; the value is 0 for writes.
pub fn encode_answer(answer: Result<u32, Refusal>) -> Words {
    let mut words = [0; 8];
    match answer {
        Ok(value) => words[1] = value.into(),
        Err(refusal) => words[0] = refusal as u64,
    }
    words
}

/// The value in an answer.
pub fn decode_answer(words: &Words) -> Result<u32, Refusal> {
    outcome(words[0]).map(|()| words[1] as u32)
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The call itself.
    Call(abi::Status),
    /// The server's answer.
    Refused(Refusal),
}

/// Makes a request of the server behind `portal`.
pub fn access(portal: Selector, request: Request) -> Result<u32, AccessError> {
    let answer = ipc::call(portal, request.encode()).map_err(AccessError::Call)?;
    decode_answer(&answer).map_err(AccessError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_nonsense_is_refused() {
        let register = Register::new(1023).unwrap();
        for request in [Request::Read(register), Request::Write(register, u32::MAX)] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Register::new(1024), None);
        for words in
            [[2, 0, 0, 0, 0, 0, 0, 0], [0, 1024, 0, 0, 0, 0, 0, 0], [1, 0, 1 << 32, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Request::decode(&words), None);
        }
        for answer in [Ok(0x8000_0000), Err(Refusal::Denied)] {
            assert_eq!(decode_answer(&encode_answer(answer)), answer);
        }
    }
}
