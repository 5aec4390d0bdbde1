//! Protocols between programs: typed messages and their encoding in message words.
//!
//! Word 0 of a reply is 0 for success or the code of a [`Refusal`].

pub mod console;
pub mod supervisor;

/// Why a server refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Refusal {
    /// The message is none of the protocol's.
    Malformed = 1,
    /// Not allowed for this client or in this state.
    Denied = 2,
    /// The server cannot take the request now.
    Busy = 3,
    /// A code that this version does not know.
    Unknown = u64::MAX,
}

/// Reads word 0 of a reply.
pub fn outcome(word: u64) -> Result<(), Refusal> {
    match word {
        0 => Ok(()),
        1 => Err(Refusal::Malformed),
        2 => Err(Refusal::Denied),
        3 => Err(Refusal::Busy),
        _ => Err(Refusal::Unknown),
    }
}

/// Word 0 of a reply.
pub fn outcome_word(outcome: Result<(), Refusal>) -> u64 {
    match outcome {
        Ok(()) => 0,
        Err(refusal) => refusal as u64,
    }
}
