//! The time line as a picture: one lane per rank, the whole run and each death.

use super::account::{Account, origin_us};
use super::deaths::{DeathAccount, done_everywhere_us};
use super::events::Step;
use super::plan::Plan;
use super::ranks::is_masked;
use super::record::{Life, Record};
use super::units::ms;
use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text, Title};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const LANE: f64 = 26.0;
const LANE_GAP: f64 = 8.0;
const HEAD: f64 = 44.0;
/// Height of what marks detection and connecting above a survivor's lane.
const MARK: f64 = 4.0;
const AXIS: f64 = 40.0;
const TITLE: f64 = 56.0;
const LEGEND: f64 = 46.0;
/// Deaths that get a panel of their own.
const MOST_PANELS: usize = 4;
/// Steps shown before a death and after the first complete step.
const CONTEXT: u64 = 2;
/// Panels in which a step is at least this wide name its number.
const NUMBERED: f64 = 26.0;

const STEP: [&str; 2] = ["#8fcf9a", "#b5e0bc"];
const MASKED: [&str; 2] = ["#f2b04e", "#f7cb87"];
const UNVERIFIED: &str = "#d62728";
const FIRST_COMPLETE: &str = "#1f6f3a";
const DETECTION: &str = "#e4572e";
const GONE: &str = "#d9d9d9";
const STARTING: &str = "#c9d6ee";
const CONNECTING: &str = "#6f94d6";
const CHECK: &str = "#d3dade";
const TEXT: &str = "#222222";

/// A stretch of time across the picture's width.
#[derive(Clone, Copy)]
struct Window {
    from: u64,
    until: u64,
    /// Time zero of the axis.
    origin: u64,
}

impl Window {
    fn x(self, us: u64) -> f64 {
        let span = (self.until - self.from).max(1) as f64;
        let at = us.clamp(self.from, self.until) - self.from;
        LEFT + at as f64 / span * (WIDTH - LEFT - RIGHT)
    }

    fn shows(self, from: u64, until: u64) -> bool {
        from < self.until && until > self.from
    }
}

/// Draws `record` as an SVG document.
pub(crate) fn draw(plan: &Plan, record: &Record, account: &Account) -> String {
    let origin = origin_us(record);
    let ends = record.lives.iter().flat_map(Life::steps).map(|s| s.end_us);
    let until = ends.max().unwrap_or(origin).max(origin + 1);
    let mut panels = vec![(
        "the whole run".to_owned(),
        Window {
            from: origin,
            until,
            origin,
        },
    )];
    for death in account.deaths.iter().take(MOST_PANELS) {
        if let Some(window) = around(record, death, until) {
            let back = death.rejoin.as_ref().and_then(|r| r.first_complete_step);
            let title = match back {
                Some(step) => format!("rank {} dies and is back in step {step}", death.rank),
                None => format!("rank {} dies", death.rank),
            };
            panels.push((title, window));
        }
    }
    let lanes = f64::from(plan.ranks) * (LANE + LANE_GAP);
    let panel_height = HEAD + lanes + AXIS;
    let height = TITLE + panel_height * panels.len() as f64 + LEGEND;
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "DejaVu Sans, Helvetica, Arial, sans-serif")
        .set("font-size", 12)
        .add(rectangle(0.0, 0.0, WIDTH, height, "#ffffff"))
        .add(text(LEFT, 24.0, &headline(account)).set("font-size", 16))
        .add(text(LEFT, 44.0, &figures(account)).set("fill", "#555555"));
    for (index, (title, window)) in panels.iter().enumerate() {
        let top = TITLE + panel_height * index as f64;
        document = document.add(panel(plan, record, account, title, *window, top));
    }
    document.add(legend(height - LEGEND + 14.0)).to_string()
}

fn headline(account: &Account) -> String {
    let verdict = if account.verified {
        "every step verified"
    } else {
        "NOT verified"
    };
    format!(
        "{} ranks, {} steps, seed {}: {verdict}",
        account.plan.ranks, account.plan.steps, account.plan.seed
    )
}

fn figures(account: &Account) -> String {
    let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    format!(
        "detection {}, connecting to the new process {}, median step {}, longest gap of a rank that lived {}",
        time(account.detect_ms),
        time(account.rejoin_connect_ms),
        time(account.median_step_ms),
        time(account.longest_survivor_gap_ms)
    )
}

/// From a few steps before a death until a few steps after everybody was back.
fn around(record: &Record, death: &DeathAccount, end: u64) -> Option<Window> {
    let (victim, died) = record.victim(death.kill)?;
    let first = death.last_step.unwrap_or(0).saturating_sub(CONTEXT);
    let from = victim.steps().find(|s| s.step >= first)?.begin_us;
    let complete = death.rejoin.as_ref().and_then(|r| r.first_complete_step);
    let until = complete
        .and_then(|step| done_everywhere_us(record, step + CONTEXT))
        .unwrap_or(end);
    Some(Window {
        from,
        until: until.max(from + 1),
        origin: died,
    })
}

fn panel(
    plan: &Plan,
    record: &Record,
    account: &Account,
    title: &str,
    window: Window,
    top: f64,
) -> Group {
    let mut group = Group::new().add(text(LEFT, top + 18.0, title).set("font-weight", "bold"));
    let lanes_top = top + HEAD;
    let complete: Vec<u64> = account
        .deaths
        .iter()
        .filter_map(|d| d.rejoin.as_ref()?.first_complete_step)
        .collect();
    for rank in 0..plan.ranks {
        let y = lanes_top + f64::from(rank) * (LANE + LANE_GAP);
        group = group
            .add(text(16.0, y + LANE * 0.68, &format!("rank {rank}")))
            .add(rectangle(LEFT, y, WIDTH - LEFT - RIGHT, LANE, "#f6f6f6"));
        for life in record.lives.iter().filter(|l| l.rank == rank) {
            group = lane(group, plan, record, life, &complete, window, y);
        }
        group = deaths(group, record, account, rank, window, y);
    }
    let bottom = lanes_top + f64::from(plan.ranks) * (LANE + LANE_GAP) - LANE_GAP;
    group = kill_lines(group, record, window, lanes_top, bottom);
    axis(group, window, bottom + 4.0)
}

/// The steps of one process.
fn lane(
    mut group: Group,
    plan: &Plan,
    record: &Record,
    life: &Life,
    complete: &[u64],
    window: Window,
    y: f64,
) -> Group {
    let following = life.steps().skip(1);
    for (step, next) in life.steps().zip(following) {
        if step.step + 1 == next.step {
            let y = y + LANE * 0.35;
            group = span(
                group,
                window,
                step.end_us,
                next.begin_us,
                y,
                LANE * 0.3,
                CHECK,
            );
        }
    }
    for step in life.steps() {
        if !window.shows(step.begin_us, step.end_us) {
            continue;
        }
        // A new process waits in its first step until the others get there.
        let waited = life.replaces.is_some() && life.steps().next() == Some(step);
        let begin = if waited {
            begin_us(record, step)
        } else {
            step.begin_us
        };
        let (left, right) = (window.x(begin), window.x(step.end_us));
        let width = (right - left).max(0.4);
        let first = complete.contains(&step.step);
        let colour = colour(plan, life.rank, step, first);
        let tip = format!(
            "rank {}, step {}: {:.2} ms",
            life.rank,
            step.step,
            ms(step.begin_us, step.end_us)
        );
        group = group.add(
            Group::new()
                .add(Title::new(tip))
                .add(rectangle(left, y, width, LANE, colour)),
        );
        if width >= NUMBERED {
            let fill = if first { "#ffffff" } else { TEXT };
            let number = text(left + width / 2.0, y + LANE * 0.66, &step.step.to_string());
            group = group.add(
                number
                    .set("text-anchor", "middle")
                    .set("font-size", 10)
                    .set("fill", fill),
            );
        }
    }
    group
}

/// When anybody who was there before began `step`, of a new process.
fn begin_us(record: &Record, step: &Step) -> u64 {
    let others = record.lives.iter().flat_map(Life::steps);
    let begins = others.filter(|other| other.step == step.step && *other != step);
    let first = begins.map(|other| other.begin_us).min();
    first.map_or(step.begin_us, |first| {
        first.clamp(step.begin_us, step.end_us)
    })
}

fn colour(plan: &Plan, rank: u32, step: &Step, first_complete: bool) -> &'static str {
    // Neighbours differ in shade, so that single steps can be told apart.
    let shade = usize::from(step.step % 2 == 1);
    if !step.verified {
        UNVERIFIED
    } else if is_masked(plan, rank, &step.answered) {
        MASKED.get(shade).copied().unwrap_or(UNVERIFIED)
    } else if first_complete {
        FIRST_COMPLETE
    } else {
        STEP.get(shade).copied().unwrap_or(UNVERIFIED)
    }
}

/// On the lane of `rank`: gone, starting, connecting. Above all others: how long they
/// took to notice, and to connect to the new process.
fn deaths(
    mut group: Group,
    record: &Record,
    account: &Account,
    rank: u32,
    window: Window,
    y: f64,
) -> Group {
    for kill in account.deaths.iter().map(|death| death.kill) {
        let Some((victim, died)) = record.victim(kill) else {
            continue;
        };
        let new = record.replacement(kill);
        if victim.rank == rank {
            let started = new.map_or(window.until.max(died), |life| life.spawned_us);
            group = span(group, window, died, started, y, LANE, GONE);
            let first = new.and_then(|life| life.steps().next());
            let begun = first.map_or(window.until, |step| begin_us(record, step));
            if let Some(life) = new {
                let ready = life.ready_us().unwrap_or(begun).min(begun);
                group = span(group, window, life.spawned_us, ready, y, LANE, STARTING);
                group = span(group, window, ready, begun, y, LANE, CONNECTING);
            }
        } else {
            for survivor in record.survivors(kill).filter(|life| life.rank == rank) {
                if let Some(noticed) = survivor.noticed_us(victim.rank, died) {
                    group = span(group, window, died, noticed, y - MARK, MARK, DETECTION);
                }
                let until = new.map_or(0, |life| life.killed.map_or(u64::MAX, |d| d.at_us));
                for (at, update) in survivor.updates(victim.rank, died, until) {
                    let begun = at.saturating_sub(update.connect_us);
                    group = span(group, window, begun, at, y - MARK, MARK, CONNECTING);
                }
            }
        }
    }
    group
}

fn span(
    group: Group,
    window: Window,
    from: u64,
    until: u64,
    y: f64,
    height: f64,
    colour: &str,
) -> Group {
    if !window.shows(from, until) {
        return group;
    }
    let (left, right) = (window.x(from), window.x(until));
    group.add(rectangle(left, y, (right - left).max(1.5), height, colour))
}

fn kill_lines(mut group: Group, record: &Record, window: Window, top: f64, bottom: f64) -> Group {
    let deaths = record
        .lives
        .iter()
        .filter_map(|l| Some((l.rank, l.killed?)));
    for (rank, death) in deaths.filter(|(_, d)| window.shows(d.at_us, d.at_us + 1)) {
        let x = window.x(death.at_us);
        let (anchor, shift) = if x > WIDTH - 150.0 {
            ("end", -4.0)
        } else {
            ("start", 4.0)
        };
        group = group
            .add(line(x, top - 6.0, x, bottom, DETECTION).set("stroke-width", 1.5))
            .add(
                text(x + shift, top - 8.0, &format!("SIGKILL rank {rank}"))
                    .set("fill", DETECTION)
                    .set("text-anchor", anchor)
                    .set("font-size", 10),
            );
    }
    group
}

fn axis(mut group: Group, window: Window, y: f64) -> Group {
    group = group.add(line(LEFT, y, WIDTH - RIGHT, y, "#777777"));
    let start = ms(window.origin, window.from);
    let end = ms(window.origin, window.until);
    let tick = tick(end - start);
    let mut at = (start / tick).ceil() * tick;
    while at <= end {
        let share = (at - start) / (end - start);
        let x = LEFT + share * (WIDTH - LEFT - RIGHT);
        // Adding zero turns a negative zero into an ordinary one.
        let label = format!("{}", (at * 1e3).round() / 1e3 + 0.0);
        group = group
            .add(line(x, y, x, y + 5.0, "#777777"))
            .add(text(x, y + 18.0, &label).set("text-anchor", "middle"));
        at += tick;
    }
    group.add(text(30.0, y + 18.0, "ms"))
}

/// The distance of ticks, 1, 2 or 5 times a power of ten, about twelve to a width.
fn tick(span: f64) -> f64 {
    let raw = (span / 12.0).max(1e-3);
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= raw);
    factor.unwrap_or(10.0) * power
}

fn legend(y: f64) -> Group {
    let entries = [
        (STEP[0], "step"),
        (CHECK, "check of its results"),
        (MASKED[0], "without a rank"),
        (FIRST_COMPLETE, "first complete step"),
        (UNVERIFIED, "not verified"),
        (DETECTION, "until noticed"),
        (GONE, "gone"),
        (STARTING, "new process starts"),
        (CONNECTING, "connecting, waiting"),
    ];
    let mut group = Group::new();
    let mut x = LEFT;
    for (colour, name) in entries {
        group = group
            .add(rectangle(x, y, 14.0, 14.0, colour))
            .add(text(x + 20.0, y + 12.0, name));
        x += 36.0 + name.len() as f64 * 6.3;
    }
    group
}

fn rectangle(x: f64, y: f64, width: f64, height: f64, fill: &str) -> Rectangle {
    Rectangle::new()
        .set("x", round(x))
        .set("y", round(y))
        .set("width", round(width))
        .set("height", round(height))
        .set("fill", fill)
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, stroke: &str) -> Line {
    Line::new()
        .set("x1", round(x1))
        .set("y1", round(y1))
        .set("x2", round(x2))
        .set("y2", round(y2))
        .set("stroke", stroke)
}

fn text(x: f64, y: f64, content: &str) -> Text {
    Text::new(content)
        .set("x", round(x))
        .set("y", round(y))
        .set("fill", TEXT)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
