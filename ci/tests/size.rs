//! The size of the kernel: code and constants, as every system has them, and lines of its sources.

use bulkhead::artifacts::Artifacts;
use bulkhead::workspace;
use configs::Architecture;
use elf::ElfBytes;
use elf::endian::LittleEndian;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most bytes of the sections `.text` and `.rodata` together.
const BOUNDS: [(Architecture, u64); 2] =
    [(Architecture::X86_64, 96 << 10), (Architecture::Arm64, 80 << 10)];

#[test]
fn the_kernel_stays_small() {
    for (architecture, most) in BOUNDS {
        let kernel = Artifacts::build(architecture).unwrap().kernel_elf();
        let bytes = std::fs::read(kernel).unwrap();
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).unwrap();
        let size = |name| file.section_header_by_name(name).unwrap().unwrap().sh_size;
        let (text, constants) = (size(".text"), size(".rodata"));
        eprintln!("{architecture}: {text} bytes of text, {constants} of constants");
        assert!(text + constants <= most, "{architecture}: more than {most}");
    }
}

/// An architecture's folder, and most lines of it and of what is common, assembly included.
const LINES: [(&str, usize); 2] = [("arch/x86_64", 13_100), ("arch/aarch64", 10_000)];
/// The ways into the kernel and out of it; elsewhere, less than a hundredth is assembly.
const ENTRIES: [&str; 3] = ["entry.rs", "exits", "fastpath.rs"];

#[test]
fn the_kernel_stays_short() {
    let kernel = workspace::root().join("hypervisor/src");
    for (architecture, most) in LINES {
        let mut sources = Vec::new();
        for folder in ["", "boot", architecture] {
            list(&kernel.join(folder), folder == architecture, &mut sources);
        }
        let (mut all, mut assembly, mut elsewhere) = (0, 0, 0);
        for source in sources {
            let mut lines = Lines::new();
            note(std::fs::read_to_string(&source).unwrap().parse().unwrap(), false, &mut lines);
            let here = lines.values().filter(|&&is_assembly| is_assembly).count();
            all += lines.len();
            assembly += here;
            let is_entry = |part: &std::ffi::OsStr| ENTRIES.iter().any(|entry| part == *entry);
            elsewhere += if source.iter().any(is_entry) { 0 } else { here };
        }
        eprintln!(
            "{architecture}: {all} lines, {assembly} of them assembly, {elsewhere} off the ways in and out"
        );
        assert!(all < most, "{architecture}: {most} lines or more");
        assert!(elsewhere * 100 < all, "{architecture}: a hundredth or more is assembly elsewhere");
    }
}

/// Lists the sources in a folder, and below it where `deep`, but not tests.
fn list(folder: &Path, deep: bool, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && deep {
            list(&path, deep, sources);
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            sources.push(path);
        }
    }
}

/// Lines of a file with something in them that is neither comment nor test, and whether they are assembly as a whole.
type Lines = BTreeMap<usize, bool>;

/// Notes the lines of `tokens`, texts among which are assembly in the macros that take it.
fn note(tokens: TokenStream, assembly: bool, lines: &mut Lines) {
    const TAKE_ASSEMBLY: [&str; 5] = ["asm", "concat", "global_asm", "macro_rules", "naked_asm"];
    let mut tokens = tokens.into_iter().peekable();
    let mut in_macro = false;
    while let Some(token) = tokens.next() {
        let is_hash = matches!(&token, TokenTree::Punct(sign) if sign.as_char() == '#');
        if is_hash {
            tokens.next_if(|next| matches!(next, TokenTree::Punct(sign) if sign.as_char() == '!'));
        }
        if let Some(TokenTree::Group(attribute)) = tokens.peek()
            && is_hash
        {
            let attribute = attribute.stream().to_string();
            if attribute.starts_with("doc") || attribute.starts_with("cfg (test)") {
                tokens.next();
                if attribute.starts_with("cfg") {
                    tokens.by_ref().find(is_end_of_item);
                }
                continue;
            }
        }
        match token {
            TokenTree::Group(group) => {
                lines.entry(group.span_open().start().line).or_insert(false);
                note(group.stream(), assembly || in_macro, lines);
                lines.entry(group.span_close().start().line).or_insert(false);
                in_macro = false;
            }
            TokenTree::Literal(text) => {
                let first = text.span().start().line;
                let text = text.to_string();
                for (i, line) in text.lines().enumerate() {
                    if !line.trim().is_empty() && !line.trim().starts_with("//") {
                        lines.entry(first + i).or_insert(assembly && text.contains('"'));
                    }
                }
            }
            TokenTree::Ident(word) => {
                in_macro |= TAKE_ASSEMBLY.iter().any(|name| word == name);
                lines.insert(word.span().start().line, false);
            }
            TokenTree::Punct(sign) => {
                lines.entry(sign.span().start().line).or_insert(false);
            }
        }
    }
}

/// Whether an item ends with `token`, or a field.
fn is_end_of_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(sign) => [';', ','].contains(&sign.as_char()),
        _ => false,
    }
}
