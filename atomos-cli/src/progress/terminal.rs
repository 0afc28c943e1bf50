//! Bars on a terminal.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use libatomos::progress::{Phase, Unit};

use super::Running;
use crate::output::text;

/// The bars that are on the screen.
pub(super) struct Terminal {
    bars: MultiProgress,
    by_phase: HashMap<Phase, ProgressBar>,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            by_phase: HashMap::new(),
        }
    }

    pub(super) fn draw(&mut self, running: &Running) {
        let bar = self.by_phase.entry(running.phase).or_insert_with(|| {
            let bar = match running.total {
                Some(total) => ProgressBar::new(total)
                    .with_style(style("{prefix:>14} [{bar:30}] {percent:>3} %  {msg}  {eta}")),
                None => ProgressBar::new_spinner().with_style(style("{prefix:>14} {spinner} {msg}")),
            };
            let bar = self.bars.add(bar.with_elapsed(running.started.elapsed()));
            bar.set_prefix(running.phase.label());
            bar
        });
        let done = running.done();
        bar.set_message(match (running.total, running.unit) {
            (Some(total), Unit::Bytes) => format!("{} of {}", text::size(done), text::size(total)),
            (Some(total), _) => format!("{} of {}", text::grouped(done), text::grouped(total)),
            (None, _) if done == 0 => seconds(running.started.elapsed()),
            (None, Unit::Bytes) => text::size(done),
            (None, _) => text::grouped(done),
        });
        bar.set_position(done);
        bar.tick();
    }

    pub(super) fn end(&mut self, phase: Phase) {
        if let Some(bar) = self.by_phase.remove(&phase) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    pub(super) fn clear(&mut self) {
        for (_, bar) in self.by_phase.drain() {
            bar.finish_and_clear();
        }
    }

    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.bars.suspend(print);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are well formed")
        .progress_chars("=> ")
}

fn seconds(elapsed: Duration) -> String {
    format!("{} s", elapsed.as_secs())
}
