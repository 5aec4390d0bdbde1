//! The specification says what the ABI says: `SPEC.md` holds the text that is made here.
//!
//! `BLESS=1 cargo test -p bulkhead-abi` writes it anew.

use abi::argument::Form;
use abi::codes::Codes;
use abi::kind::{Delegable, Target as _};
use abi::operation::{Cost, Description, Field};
use abi::{Kind, Op, Rights, Status};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- made from hypervisor/abi: begin -->\n";
const END: &str = "<!-- made from hypervisor/abi: end -->\n";

/// Doc comments as prose: links lose their brackets, lines their breaks.
fn prose(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut joined = joined.replace("[`", "`").replace("`]", "`");
    for path in ["crate::", "Status::", "Rights::", "Op::", "syscall::"] {
        joined = joined.replace(path, "");
    }
    joined.replace('|', "\\|")
}

/// A sentence inside of one.
fn clause(sentence: &str) -> String {
    let mut text = prose(sentence.trim_end_matches('.'));
    let first = text.chars().next().map_or(0, char::len_utf8);
    text[..first].make_ascii_lowercase();
    text
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Sched => "scheduling context".into(),
        Kind::Vcpu => "vCPU".into(),
        Kind::Interrupt => "interrupt line".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Names of rights, as they are called of these kinds.
fn rights(rights: Rights, kinds: &[Kind]) -> String {
    let mut out = String::new();
    for (name, _) in rights.iter_names() {
        let name = match (kinds, name) {
            ([Kind::Notification], "READ") => "WAIT",
            ([Kind::Notification], "WRITE") => "SIGNAL",
            (_, name) => name,
        };
        write!(out, ", `{name}`").unwrap();
    }
    out
}

fn number(value: u64) -> String {
    match value {
        u64::MAX => "2^64 − 1".into(),
        _ if value > 9999 && value.is_power_of_two() => format!("2^{}", value.ilog2()),
        _ if value > 9999 && (value + 1).is_power_of_two() => {
            format!("2^{} − 1", (value + 1).ilog2())
        }
        _ if value > 9999 => format!("{value:#x}"),
        _ => value.to_string(),
    }
}

fn form(of: &Form) -> String {
    match of {
        Form::Word => "number".into(),
        Form::Words(count) => format!("{count} words"),
        Form::Number(first, last) => format!("{} to {}", number(*first), number(*last)),
        Form::Page => "address of a page".into(),
        Form::Boolean => "0 or 1".into(),
        Form::Selector => "selector".into(),
        Form::Capability { kinds: [], rights: r } => format!("any capability{}", rights(*r, &[])),
        Form::Capability { kinds, rights: r } if *kinds == Delegable::KINDS => {
            format!("any capability but a mapping{}", rights(*r, kinds))
        }
        Form::Capability { kinds, rights: r } => {
            let names: Vec<String> = kinds.iter().copied().map(kind).collect();
            format!("{}{}", names.join(" or "), rights(*r, kinds))
        }
        Form::Destination => "empty slot".into(),
        Form::OneOf(codes) => format!("`{}`", codes.name),
        Form::SetOf(codes) => format!("set of `{}`", codes.name),
        Form::Packed(parts) => {
            let part =
                |(first, last, of): &(u32, u32, Form)| format!("bits {first}–{last}: {}", form(of));
            parts.iter().map(part).collect::<Vec<_>>().join("; ")
        }
        Form::Bytes(most) => {
            format!("a word with their number, 0 to {most}; {most} bytes, packed little-endian")
        }
    }
}

/// Enumerations and flags that `of` is made of.
fn codes(of: &'static Form, into: &mut Vec<&'static Codes>) {
    match of {
        Form::OneOf(codes) | Form::SetOf(codes)
            if into.iter().all(|other| other.name != codes.name) =>
        {
            into.push(codes);
        }
        Form::Packed(parts) => parts.iter().for_each(|(.., of)| codes(of, into)),
        _ => {}
    }
}

fn fields(out: &mut String, what: &str, fields: &[Field]) {
    if fields.is_empty() {
        return;
    }
    writeln!(out, "| register | {what} | type | meaning |\n| --- | --- | --- | --- |").unwrap();
    for field in fields {
        let first = field.register;
        let registers = match field.words {
            1 => format!("`a{first}`"),
            words => format!("`a{first}`–`a{}`", first + words - 1),
        };
        let (name, form, doc) = (field.name, form(&field.form), prose(field.doc));
        writeln!(out, "| {registers} | `{name}` | {form} | {doc} |").unwrap();
    }
    out.push('\n');
}

fn sentences(out: &mut String, title: &str, sentences: &[&str]) {
    if !sentences.is_empty() {
        let all: Vec<String> = sentences.iter().map(|text| prose(text)).collect();
        writeln!(out, "- {title}: {}", all.join(" ")).unwrap();
    }
}

fn operation(out: &mut String, of: &Description) {
    let op = of.op;
    writeln!(out, "#### `{}` ({})\n\n{}\n", op.name(), op as u8, prose(of.doc)).unwrap();
    fields(out, "argument", of.arguments);
    fields(out, "result", of.results);
    sentences(out, "Before", of.before);
    sentences(out, "After", of.after);
    let mut statuses = Vec::new();
    for status in op.statuses().iter().filter(|s| *s != Status::Success) {
        let name = status.name();
        let when = of.errors.iter().find(|(s, _)| *s == status);
        statuses.push(match (when, status) {
            (Some((_, when)), _) => format!("`{name}` ({})", clause(when)),
            (None, Status::Quota) => {
                let payer = op.payer() as usize;
                let payer = of.arguments.iter().find(|field| field.register == payer);
                format!("`{name}` (of `{}`)", payer.expect("an argument").name)
            }
            (None, _) => format!("`{name}`"),
        });
    }
    writeln!(out, "- Errors: {}.", statuses.join(", ")).unwrap();
    let cost = match of.cost {
        Cost::Constant => "constant".into(),
        Cost::Linear(of) => format!("grows with {of}"),
        Cost::Steps(of) => format!("grows with {of}, in short steps"),
    };
    writeln!(out, "- Cost: {cost}.\n").unwrap();
}

fn text() -> String {
    let mut out = String::from("### Operations\n\n");
    writeln!(out, "These are the operations of ABI version {}.\n", abi::VERSION).unwrap();
    let mut values = Vec::new();
    for op in Op::ALL {
        let description = op.description();
        operation(&mut out, description);
        for field in description.arguments.iter().chain(description.results) {
            codes(&field.form, &mut values);
        }
    }
    out.push_str("### Values of arguments\n\n");
    for of in values {
        writeln!(out, "#### `{}`\n\n{}\n", of.name, prose(of.doc)).unwrap();
        out.push_str("| value | name | meaning |\n| --- | --- | --- |\n");
        for code in of.values {
            let (value, name, doc) = (number(code.value), code.name, prose(code.doc));
            writeln!(out, "| {value} | `{name}` | {doc} |").unwrap();
        }
        out.push('\n');
    }
    out.push_str("### Status codes\n\n| code | status | meaning |\n| --- | --- | --- |\n");
    for status in Status::ALL {
        let (code, name, text) = (*status as u8, status.name(), prose(status.description()));
        writeln!(out, "| {code} | `{name}` | {text} |").unwrap();
    }
    out
}

#[test]
fn the_specification_holds_every_operation_and_status() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SPEC.md");
    let specification = std::fs::read_to_string(&path).expect("hypervisor/SPEC.md");
    let start = specification.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = specification.find(END).expect("the end mark");
    let (text, before, after) = (text(), &specification[..start], &specification[end..]);
    if specification[start..end] == text {
        return;
    }
    assert!(
        std::env::var_os("BLESS").is_some(),
        "SPEC.md is not what the ABI says: BLESS=1 writes it"
    );
    std::fs::write(&path, format!("{before}{text}{after}")).expect("writing SPEC.md");
}

#[test]
fn the_newest_changes_are_of_this_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../CHANGELOG.md");
    let changes = std::fs::read_to_string(&path).expect("hypervisor/CHANGELOG.md");
    // Versions are the headings, the newest first.
    let newest = changes.lines().find_map(|line| line.strip_prefix("## "));
    assert_eq!(newest, Some(abi::VERSION.to_string().as_str()));
}
