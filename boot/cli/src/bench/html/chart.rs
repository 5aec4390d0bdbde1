//! Bars, as SVG.

use maud::{Markup, html};

/// The drawing's width; it is scaled to the page's.
const WIDTH: f64 = 960.0;
/// Where bars begin: names are left of it.
const LEFT: f64 = 250.0;
/// Room right of the longest bar, for its number.
const RIGHT: f64 = 70.0;
const BAR: f64 = 14.0;
const GAP: f64 = 10.0;

/// A bar.
pub struct Bar<'a> {
    /// Its class in the style sheet.
    pub class: &'a str,
    /// What appears when one points at it.
    pub hint: String,
    /// Its length.
    pub value: u64,
}

/// Bars that belong together.
pub struct Group<'a> {
    /// What stands left of them.
    pub name: &'a str,
    /// From top to bottom.
    pub bars: Vec<Bar<'a>>,
    /// Where a line crosses them.
    pub bound: Option<u64>,
}

/// A chart of groups of bars from one scale, `unit` of which is said.
pub fn bars(groups: &[Group<'_>], title: &str) -> Markup {
    let values = groups.iter().flat_map(|group| {
        let bars = group.bars.iter().map(|bar| bar.value);
        bars.chain(group.bound)
    });
    let scale = (WIDTH - LEFT - RIGHT) / values.max().unwrap_or(1).max(1) as f64;
    let heights = groups.iter().map(|group| group.bars.len() as f64 * BAR + GAP);
    let mut tops = vec![0.0];
    tops.extend(heights.scan(0.0, |top, height| {
        *top += height;
        Some(*top)
    }));
    let height = tops.last().copied().unwrap_or_default();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @for (group, top) in groups.iter().zip(&tops) {
                text x=(LEFT - 8.0) y=(top + BAR * 0.8) text-anchor="end" { (group.name) }
                @for (at, bar) in group.bars.iter().enumerate() {
                    rect class=(bar.class) x=(LEFT) y=(top + at as f64 * BAR + 1.0)
                        width=(format!("{:.1}", bar.value as f64 * scale)) height=(BAR - 2.0) rx="2" {
                        title { (bar.hint) }
                    }
                }
                @if let Some(bound) = group.bound {
                    @let x = format!("{:.1}", LEFT + bound as f64 * scale);
                    line.goal x1=(x) x2=(x) y1=(top - 1.0) y2=(top + group.bars.len() as f64 * BAR + 1.0) {
                        title { "at most " (bound) }
                    }
                }
                @for (at, bar) in group.bars.iter().enumerate() {
                    text.faint x=(format!("{:.1}", LEFT + bar.value as f64 * scale + 5.0)) y=(top + (at as f64 + 0.8) * BAR) {
                        (bar.value)
                    }
                }
            }
        }
    }
}

/// A chart of bars that are made of parts: class, hint and length of each.
pub fn stacks(rows: &[(&str, Vec<Bar<'_>>)], title: &str) -> Markup {
    let total = |parts: &[Bar<'_>]| parts.iter().map(|part| part.value).sum::<u64>();
    let most = rows.iter().map(|(_, parts)| total(parts)).max();
    let scale = (WIDTH - LEFT - RIGHT) / most.unwrap_or(1).max(1) as f64;
    let height = rows.len() as f64 * (BAR + GAP);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @for (at, (name, parts)) in rows.iter().enumerate() {
                @let y = at as f64 * (BAR + GAP);
                text x=(LEFT - 8.0) y=(y + BAR * 0.8) text-anchor="end" { (name) }
                @for (part, start) in parts.iter().zip(starts(parts)) {
                    @let x = format!("{:.1}", LEFT + start as f64 * scale);
                    rect class=(part.class) x=(x) y=(y) width=(format!("{:.1}", part.value as f64 * scale)) height=(BAR) {
                        title { (part.hint) }
                    }
                }
                text.faint x=(format!("{:.1}", LEFT + total(parts) as f64 * scale + 5.0)) y=(y + BAR * 0.8) {
                    (total(parts))
                }
            }
        }
    }
}

/// Where each of the parts begins.
fn starts(parts: &[Bar<'_>]) -> impl Iterator<Item = u64> {
    parts.iter().scan(0, |next, part| {
        let start = *next;
        *next += part.value;
        Some(start)
    })
}
