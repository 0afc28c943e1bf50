//! Showing the library's progress: bars on a terminal, lines elsewhere, JSON for programs.
//!
//! Worker threads only add to a counter; one thread of its own looks at the counters ten times a second and draws.
//! So nobody waits for a slow terminal, and an operation shorter than a quarter of a second draws nothing at all.

mod events;
mod terminal;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libatomos::progress::{Event, Phase, Progress, Unit};

use crate::output::text;
use crate::report::CliError;
use crate::ui::Ui;

use events::EventWriter;
use terminal::Terminal;

/// How often the counters are looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// A bar for what is over before an eye has found it is noise.
const BAR_AFTER: Duration = Duration::from_millis(250);

/// Without a terminal, shorter phases are not mentioned.
const LINE_AFTER: Duration = Duration::from_secs(1);

/// Without a terminal, the time between two lines of one phase.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A phase that is running.
pub(crate) struct Running {
    pub(crate) phase: Phase,
    pub(crate) unit: Unit,
    pub(crate) total: Option<u64>,
    pub(crate) started: Instant,
    done: AtomicU64,
}

impl Running {
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn amount(&self, number: u64) -> String {
        match self.unit {
            Unit::Bytes => text::size(number),
            _ => text::grouped(number),
        }
    }

    /// Returns how far it is, without a bar: `45 % of 987.2 MB`. Waiting for the disk has no measure.
    pub(crate) fn describe(&self) -> String {
        match self.total {
            None if self.done() == 0 => "…".to_owned(),
            Some(total) if total > 0 => format!(
                "{} % of {}",
                u128::from(self.done().min(total)) * 100 / u128::from(total),
                self.amount(total)
            ),
            _ => self.amount(self.done()),
        }
    }
}

/// What the drawing thread and the reporting threads share.
struct Shared {
    running: RwLock<HashMap<Phase, Arc<Running>>>,
    screen: Mutex<Screen>,
    wake: Condvar,
}

/// Everything that is written to; locked by whoever writes.
struct Screen {
    ui: Ui,
    terminal: Option<Terminal>,
    events: Option<EventWriter>,
    /// Phases that a line was printed for, and when.
    mentioned: HashMap<Phase, Instant>,
    over: bool,
}

/// Receives the library's events and shows them.
pub struct Renderer {
    shared: Arc<Shared>,
    drawer: Mutex<Option<JoinHandle<()>>>,
}

impl Renderer {
    /// Shows progress on stderr as `ui` says, and writes events to the descriptor `fd` if there is one.
    pub fn new(ui: &Ui, fd: Option<i32>) -> Result<Self, CliError> {
        let events = fd.map(EventWriter::open).transpose()?;
        let screen = Screen {
            ui: *ui,
            terminal: (ui.is_terminal() && ui.shows_progress()).then(Terminal::new),
            events,
            mentioned: HashMap::new(),
            over: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                running: RwLock::default(),
                screen: Mutex::new(screen),
                wake: Condvar::new(),
            }),
            drawer: Mutex::new(None),
        })
    }

    /// Stops drawing and takes what was drawn off the terminal.
    pub fn finish(&self) {
        self.shared.lock().over = true;
        self.shared.wake.notify_all();
        if let Some(thread) = lock(&self.drawer).take() {
            // It does nothing but draw; a panic there has been printed and changes no outcome.
            let _ = thread.join();
        }
    }

    /// The thread starts with the first phase: most commands have none.
    fn ensure_drawer(&self) {
        let mut drawer = lock(&self.drawer);
        if drawer.is_none() {
            let shared = Arc::clone(&self.shared);
            // Without the thread there are no bars, and nothing else is lost.
            *drawer = std::thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || shared.draw_until_over())
                .ok();
        }
    }
}

impl Drop for Renderer {
    fn drop(&mut self) {
        self.finish();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Screen> {
        lock(&self.screen)
    }

    fn draw_until_over(&self) {
        let mut screen = self.lock();
        while !screen.over {
            screen = self
                .wake
                .wait_timeout(screen, INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            let mut running: Vec<_> = self
                .running
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .cloned()
                .collect();
            running.sort_by_key(|running| running.started);
            for running in &running {
                screen.draw(running);
            }
        }
        if let Some(terminal) = &mut screen.terminal {
            terminal.clear();
        }
    }
}

impl Screen {
    fn draw(&mut self, running: &Running) {
        if let Some(events) = &mut self.events {
            events.advance(running);
        }
        let age = running.started.elapsed();
        if let Some(terminal) = &mut self.terminal {
            if age >= BAR_AFTER {
                terminal.draw(running);
            }
        } else if self.ui.shows_progress()
            && age >= LINE_AFTER
            && self
                .mentioned
                .get(&running.phase)
                .is_none_or(|last| last.elapsed() >= LINE_EVERY)
        {
            self.mentioned.insert(running.phase, Instant::now());
            self.ui
                .status(format_args!("{}: {}", running.phase.label(), running.describe()));
        }
    }

    fn end(&mut self, running: &Running) {
        if let Some(events) = &mut self.events {
            events.end(running);
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.end(running.phase);
        }
        let mentioned = self.mentioned.remove(&running.phase).is_some();
        // A total is exact: what falls short of it was interrupted.
        let amount = match running.total.filter(|total| running.done() < *total) {
            Some(_) => format!("stopped at {} after ", running.describe()),
            None if running.done() == 0 => String::new(),
            None => format!("{} in ", running.amount(running.done())),
        };
        let seconds = running.started.elapsed().as_secs_f64();
        let line = format!("{}: {amount}{seconds:.1} s", running.phase.label());
        if mentioned {
            self.say(|ui| ui.status(&line));
        } else {
            self.say(|ui| ui.detail(&line));
        }
    }

    /// Prints above the bars.
    fn say(&self, print: impl FnOnce(&Ui)) {
        match &self.terminal {
            Some(terminal) => terminal.suspend(|| print(&self.ui)),
            None => print(&self.ui),
        }
    }
}

impl Progress for Renderer {
    fn report(&self, event: Event<'_>) {
        let running = |phase| {
            self.shared
                .running
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&phase)
                .cloned()
        };
        match event {
            Event::Begin { phase, total, unit } => {
                let running = Arc::new(Running {
                    phase,
                    unit,
                    total,
                    started: Instant::now(),
                    done: AtomicU64::new(0),
                });
                if let Some(events) = &mut self.shared.lock().events {
                    events.begin(&running);
                }
                self.shared
                    .running
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(phase, running);
                self.ensure_drawer();
            }
            Event::Advance { phase, delta } => {
                if let Some(running) = running(phase) {
                    running.done.fetch_add(delta, Ordering::Relaxed);
                }
            }
            Event::End { phase } => {
                let ended = self
                    .shared
                    .running
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&phase);
                if let Some(running) = ended {
                    self.shared.lock().end(&running);
                }
            }
            Event::Note { text } => {
                let mut screen = self.shared.lock();
                if let Some(events) = &mut screen.events {
                    events.note(text);
                }
                screen.say(|ui| ui.status(text::escape_text(text)));
            }
            Event::Warning { text } => {
                let mut screen = self.shared.lock();
                if let Some(events) = &mut screen.events {
                    events.warning(text);
                }
                screen.say(|ui| ui.warning(text::escape_text(text)));
            }
            // An event of a later library.
            _ => {}
        }
    }
}
