//! The specification says what the ABI says: `SPEC.md` holds the tables that are made here.
//!
//! `BLESS=1 cargo test -p bulkhead-abi` writes them anew.

use abi::{Op, Status};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- made from hypervisor/abi: begin -->\n";
const END: &str = "<!-- made from hypervisor/abi: end -->\n";

/// Doc comments as prose: links lose their brackets, lines their breaks.
fn prose(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let joined = joined.replace("[`", "`").replace("`]", "`");
    joined
        .replace("crate::", "")
        .replace("Status::", "")
        .replace("Rights::", "")
        .replace('|', "\\|")
}

fn tables() -> String {
    let mut out = String::new();
    out.push_str("### Operations\n\n| number | operation | meaning |\n| --- | --- | --- |\n");
    for op in Op::ALL {
        let (number, name, text) = (*op as u8, op.name(), prose(op.description()));
        writeln!(out, "| {number} | `{name}` | {text} |").unwrap();
    }
    out.push_str("\n### Status codes\n\n| code | status | meaning |\n| --- | --- | --- |\n");
    for status in Status::ALL {
        let (code, name, text) = (*status as u8, status.name(), prose(status.description()));
        writeln!(out, "| {code} | `{name}` | {text} |").unwrap();
    }
    out
}

#[test]
fn the_specification_holds_every_operation_and_status() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SPEC.md");
    let text = std::fs::read_to_string(&path).expect("hypervisor/SPEC.md");
    let start = text.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = text.find(END).expect("the end mark");
    if text[start..end] == tables() {
        return;
    }
    assert!(
        std::env::var_os("BLESS").is_some(),
        "SPEC.md is not what the ABI says: BLESS=1 writes it"
    );
    let fresh = format!("{}{}{}", &text[..start], tables(), &text[end..]);
    std::fs::write(&path, fresh).expect("writing SPEC.md");
}
