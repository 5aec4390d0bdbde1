//! Program to supervisor (the root task).
use super::{Refusal, outcome};
use crate::handler::Entry;
use crate::ipc::{self, Words};
use crate::layout::SUPERVISOR;

/// Why a VM stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StopReason {
    /// The guest powered off.
    PowerOff = 0,
    /// The guest asked for a reset that the monitor does not carry out itself.
    Reset = 1,
    /// The guest reported a panic.
    GuestPanic = 2,
    /// The guest's processor shut down.
    TripleFault = 3,
    /// The monitor cannot go on with the guest.
    MonitorError = 4,
}

impl StopReason {
    /// Every reason, in ascending order of code.
    pub const ALL: [StopReason; 5] = [
        StopReason::PowerOff,
        StopReason::Reset,
        StopReason::GuestPanic,
        StopReason::TripleFault,
        StopReason::MonitorError,
    ];

    /// The reason with this code, if there is one.
    pub fn from_code(code: u64) -> Option<StopReason> {
        Self::ALL.into_iter().find(|&reason| reason as u64 == code)
    }
}

impl core::fmt::Display for StopReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            StopReason::PowerOff => "powered off",
            StopReason::Reset => "asked for a reset",
            StopReason::GuestPanic => "guest panic",
            StopReason::TripleFault => "triple fault",
            StopReason::MonitorError => "the monitor gave up",
        })
    }
}

/// Exit code of a program that panicked.
pub const PANICKED: u64 = 101;

/// A request to the supervisor. It is accepted, and carried out after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The program is done, with 0 for success. Its domain is destroyed.
    Exit(u64),
    /// The program serves its clients from now on.
    Ready,
    /// Have a handler thread created, and a portal to it that the program's client may call.
    Export {
        /// Which of the environment's clients.
        client: u32,
        /// CPU of the handler.
        cpu: u32,
        /// Where it starts. The calls carry `client` as identity.
        entry: Entry,
    },
    /// The program's VM stopped. The program may be destroyed.
    VmStopped(StopReason),
}

impl Request {
    /// Message words.
    pub fn encode(self) -> Words {
        match self {
            Request::Exit(code) => [0, code, 0, 0, 0, 0, 0, 0],
            Request::Ready => [1, 0, 0, 0, 0, 0, 0, 0],
            Request::Export { client, cpu, entry } => {
                [2, client.into(), cpu.into(), entry.ip, entry.sp, entry.utcb, 0, 0]
            }
            Request::VmStopped(reason) => [3, reason as u64, 0, 0, 0, 0, 0, 0],
        }
    }

    /// The request in a message, which may say anything.
    pub fn decode(words: &Words) -> Option<Request> {
        Some(match words[0] {
            0 => Request::Exit(words[1]),
            1 => Request::Ready,
            2 => Request::Export {
                client: u32::try_from(words[1]).ok()?,
                cpu: u32::try_from(words[2]).ok()?,
                entry: Entry { ip: words[3], sp: words[4], utcb: words[5] },
            },
            3 => Request::VmStopped(StopReason::from_code(words[1])?),
            _ => return None,
        })
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The call itself.
    Call(abi::Status),
    /// The supervisor's answer.
    Refused(Refusal),
}

/// Makes a request. Only on the CPU of the program's first thread.
pub fn request(request: Request) -> Result<(), RequestError> {
    // `Busy` passes as soon as the supervisor, which has the highest priority, has run.
    for _ in 0..1000 {
        let answer = ipc::call(SUPERVISOR, request.encode()).map_err(RequestError::Call)?;
        match outcome(answer[0]) {
            Ok(()) => return Ok(()),
            Err(Refusal::Busy) => crate::syscall::yield_turn(),
            Err(refusal) => return Err(RequestError::Refused(refusal)),
        }
    }
    Err(RequestError::Refused(Refusal::Busy))
}

/// Ends the program.
pub fn exit(code: u64) -> ! {
    let _ = request(Request::Exit(code));
    // Not reached when the supervisor accepted; else the exception tells it.
    crate::arch::crash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_nonsense_is_refused() {
        let entry = Entry { ip: 0x40_0000, sp: 0x5000_0000, utcb: 0x2018_0000 };
        let mut all = vec![
            Request::Exit(PANICKED),
            Request::Ready,
            Request::Export { client: 3, cpu: 1, entry },
        ];
        all.extend(StopReason::ALL.map(Request::VmStopped));
        for request in all {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for words in
            [[4, 0, 0, 0, 0, 0, 0, 0], [2, 1 << 32, 0, 0, 0, 0, 0, 0], [3, 5, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Request::decode(&words), None);
        }
    }
}
