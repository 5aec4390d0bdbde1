//! Monitor to console server: register accesses of an emulated 16550.
use super::{Refusal, outcome};
use crate::ipc::{self, Words};
use abi::Selector;

/// Number of a register: its offset from the first port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The register at `offset`, if there is one.
    pub const fn new(offset: u64) -> Option<Register> {
        if offset < 8 {
            Some(Register(offset as u8))
        } else {
            None
        }
    }

    /// Offset from the first port.
    pub const fn offset(self) -> u8 {
        self.0
    }
}

/// A request of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest read a register; the answer is its value.
    Read(Register),
    /// The guest wrote a register.
    Write(Register, u8),
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
            1 => Some(Request::Write(register, u8::try_from(words[2]).ok()?)),
            _ => None,
        }
    }
}

/// Message words of an answer; the value is 0 for writes.
pub fn encode_answer(answer: Result<u8, Refusal>) -> Words {
    let mut words = [0; 8];
    match answer {
        Ok(value) => words[1] = value.into(),
        Err(refusal) => words[0] = refusal as u64,
    }
    words
}

/// The value in an answer.
pub fn decode_answer(words: &Words) -> Result<u8, Refusal> {
    outcome(words[0]).map(|()| words[1] as u8)
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
pub fn access(portal: Selector, request: Request) -> Result<u8, AccessError> {
    let answer = ipc::call(portal, request.encode()).map_err(AccessError::Call)?;
    decode_answer(&answer).map_err(AccessError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_nonsense_is_refused() {
        let register = Register::new(7).unwrap();
        for request in [Request::Read(register), Request::Write(register, 0xa5)] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Register::new(8), None);
        for words in [
            [2, 0, 0, 0, 0, 0, 0, 0],
            [0, 8, 0, 0, 0, 0, 0, 0],
            [1, 0, 256, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Request::decode(&words), None);
        }
        for answer in [Ok(200), Err(Refusal::Denied)] {
            assert_eq!(decode_answer(&encode_answer(answer)), answer);
        }
    }
}
