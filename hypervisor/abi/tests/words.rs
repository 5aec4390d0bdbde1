//! What the types of arguments make of words.

use abi::argument::Words;
use abi::call::*;
use abi::operation::{Field, Operation, Registers};
use abi::{Op, Status};

/// A generator (SplitMix64).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Words of all sizes, so that some are arguments of anything.
    fn words(&mut self) -> Words {
        core::array::from_fn(|_| {
            let word = self.word() >> (self.word() % 64);
            let page = self.word().is_multiple_of(4);
            if page { word << 12 & 0x7f_ffff_f000 } else { word }
        })
    }
}

/// What was decoded is encoded to the same words, as far as registers are taken, and to nothing elsewhere; whether there
/// was something to decode.
fn there_and_back<T: Operation + PartialEq + core::fmt::Debug>(words: &Words) -> bool {
    assert_eq!(T::OP.check(words).is_ok(), T::decode(words).is_some());
    let Some(decoded) = T::decode(words) else {
        return false;
    };
    let (tag, encoded) = decoded.encode();
    assert_eq!((tag.op(), tag.has_reserved()), (T::OP as u8, false));
    assert_eq!(T::decode(&encoded).as_ref(), Some(&decoded), "{words:x?}");
    assert_eq!(decoded.encode().1, encoded);
    for (i, (&word, &given)) in encoded.iter().zip(words).enumerate() {
        match (T::OP, i) {
            (op, _) if Field::taken(T::FIELDS) >> i & 1 == 0 => assert_eq!(word, 0, "{op:?} a{i}"),
            // What is past the bytes means nothing.
            (Op::LogWrite, 2..) => {}
            (op, _) => assert_eq!(word, given, "{op:?} a{i}"),
        }
    }
    let words = encoded;
    if let Some(results) = T::Results::decode(&words) {
        let mut again = [0; 9];
        results.store(&mut again);
        let taken = Field::taken(T::Results::FIELDS);
        assert!((0..9).all(|i| again[i] == 0 || taken >> i & 1 != 0));
    }
    true
}

/// [`there_and_back`] of each operation.
fn each(words: &Words) -> Vec<(Op, bool)> {
    macro_rules! each {
        ($($name:ident)*) => { vec![$((Op::$name, there_and_back::<$name>(words))),*] };
    }
    each! {
        Call ReplyWait Signal Wait Yield CreateDomain CreateSpace CreateThread CreateVcpu CreateSched CreatePortal
        CreateNotification Delegate Revoke Delete Map BindSched BindKick InterruptBind InterruptAck QuotaQuery LogWrite
        LogRead LogBind Power QuotaGive QuotaTake BindDoorbell BindOverrun SetSchedule Migrate
    }
}

#[test]
fn arguments_survive_encoding_and_random_words_do_no_harm() {
    let mut random = Random(1);
    let mut decoded = [0; 256];
    for _ in 0..200_000 {
        let words = random.words();
        let all = each(&words);
        assert!(all.iter().map(|(op, _)| op).eq(Op::ALL));
        for (op, was) in all {
            decoded[op as usize] += u32::from(was);
        }
    }
    for &op in Op::ALL {
        assert!(decoded[op as usize] > 10, "{op:?}: {}", decoded[op as usize]);
    }
}

#[test]
fn every_register_that_is_checked_is_checked() {
    // The greatest word is no selector, no small number, no enumeration's and no flags'.
    let free = [
        (Op::Call, 0b1_1111_1110),
        (Op::ReplyWait, 0b1_1111_1110),
        (Op::Wait, 0b10),
        (Op::CreateSched, 0b11_0000),
        (Op::CreatePortal, 0b1_1000),
        (Op::Delegate, 0b11_0000),
        (Op::Map, 0b11_1000),
        (Op::LogWrite, 0b1_1111_1100),
        (Op::QuotaGive, 0b100),
        (Op::QuotaTake, 0b100),
        (Op::BindDoorbell, 0b11_0000),
        (Op::SetSchedule, 0b100),
    ];
    for &op in Op::ALL {
        let description = op.description();
        let mut good = [0; 9];
        for field in description.arguments {
            // 0 is no address of a page, no number of slots and no set of rights to map with.
            good[field.register] = match (op, field.name) {
                (_, "utcb" | "state") => 0x1000,
                _ => 1,
            };
        }
        assert_eq!(op.check(&good), Ok(()), "{op:?}");
        let free = free.iter().find(|(other, _)| *other == op);
        let mut expected = !Field::taken(description.arguments);
        expected |= free.map_or(0, |(_, free)| *free);
        for i in 0..9 {
            let mut words = good;
            words[i] = u64::MAX;
            let ok = op.check(&words).is_ok();
            assert_eq!(ok, expected >> i & 1 != 0, "{op:?} a{i}");
        }
    }
}

#[test]
fn what_the_types_imply_is_among_the_statuses() {
    use Status::*;
    let has = |op: Op, statuses: &[Status]| {
        let all: Vec<Status> = op.statuses().iter().collect();
        assert_eq!(all, statuses, "{op:?}");
    };
    has(Op::Yield, &[Success, BadArgument]);
    has(Op::Signal, &[Success, BadCapability, Denied, BadArgument]);
    has(Op::Revoke, &[Success, BadCapability, BadArgument]);
    let creation =
        [Success, BadCapability, Denied, BadArgument, BadSelector, Occupied, Quota, Dead];
    has(Op::CreateNotification, &creation);
    assert!(!Op::Signal.statuses().contains(Unknown));
    // A register per thing is asserted when the table is compiled; here: the payer is one that a domain is found by.
    for &op in Op::ALL {
        let pays = op.statuses().contains(Quota);
        let at = op.payer() as usize;
        let named = op.description().arguments.iter().any(|field| {
            field.register == at && matches!(field.name, "payer" | "domain" | "space")
        });
        assert_eq!(pays, named && pays, "{op:?}");
    }
}
