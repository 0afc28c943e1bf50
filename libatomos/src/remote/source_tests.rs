use std::collections::VecDeque;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::testing::RecordingProgress;
use crate::transport::{Request, Response, Status, Transport, TransportError, TransportErrorKind};

use super::source::{Fetched, Metered, Rejection, Source, SourceOptions};
use super::timer::Timer;

/// An hour takes no time.
#[derive(Debug)]
struct FakeTimer {
    start: Instant,
    passed: Mutex<Duration>,
}

impl FakeTimer {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            passed: Mutex::default(),
        })
    }

    fn passed(&self) -> Duration {
        *self.passed.lock().unwrap()
    }
}

impl Timer for FakeTimer {
    fn now(&self) -> Instant {
        self.start + self.passed()
    }

    fn sleep(&self, duration: Duration) {
        *self.passed.lock().unwrap() += duration;
    }
}

type Step = Box<dyn Fn(&Request<'_>) -> Result<Response, TransportError> + Send>;

/// Answers by a script; the last step for ever.
struct Scripted {
    name: &'static str,
    steps: Mutex<VecDeque<Step>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Transport for Scripted {
    fn url(&self) -> &str {
        self.name
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let text = format!("{} {:?} {:?}", self.name, request.range, request.if_none_match);
        self.asked.lock().unwrap().push(text);
        let mut steps = self.steps.lock().unwrap();
        let result = steps.front().expect("there is a step")(request);
        if steps.len() > 1 {
            steps.pop_front();
        }
        result
    }
}

fn answer(status: Status, body: &'static [u8]) -> Result<Response, TransportError> {
    Ok(Response {
        status,
        etag: Some("\"t\"".to_owned()),
        url: "http://m/file".to_owned(),
        content_type: None,
        body: Box::new(body),
    })
}

fn body(text: &'static str) -> Step {
    Box::new(move |_| answer(Status::Whole, text.as_bytes()))
}

fn fails(kind: TransportErrorKind, retry_after: Option<u64>) -> Step {
    Box::new(move |_| {
        let mut error = TransportError::new("http://m/file", kind, "as the script says");
        error.retry_after = retry_after.map(Duration::from_secs);
        Err(error)
    })
}

struct Bench {
    asked: Arc<Mutex<Vec<String>>>,
    progress: RecordingProgress,
    cancel: Cancel,
    timer: Arc<FakeTimer>,
    mirrors: Mutex<Vec<Box<dyn Transport>>>,
    limit_rate: Option<u64>,
}

impl Bench {
    fn new(mirrors: Vec<(&'static str, Vec<Step>)>) -> Self {
        let asked = Arc::default();
        let mirrors = mirrors.into_iter().map(|(name, steps)| {
            Box::new(Scripted {
                name,
                steps: Mutex::new(steps.into()),
                asked: Arc::clone(&asked),
            }) as Box<dyn Transport>
        });
        Self {
            mirrors: Mutex::new(mirrors.collect()),
            asked,
            progress: RecordingProgress::default(),
            cancel: Cancel::new(),
            timer: FakeTimer::new(),
            limit_rate: None,
        }
    }

    fn source(&self) -> Source<'_> {
        let options = SourceOptions {
            timer: Arc::clone(&self.timer) as Arc<dyn Timer>,
            limit_rate: self.limit_rate,
            ..SourceOptions::default()
        };
        let mirrors = std::mem::take(&mut *self.mirrors.lock().unwrap());
        Source::new(mirrors, options, &self.progress, &self.cancel)
    }

    /// Returns which mirrors were asked, in order.
    fn asked(&self) -> String {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|text| &text[..1]).collect()
    }
}

fn read(source: &Source<'_>) -> Result<String, TransportError> {
    let request = Request::whole("file", 100);
    let accept = |bytes: Vec<u8>, _: &_| match String::from_utf8(bytes).unwrap() {
        text if text == "bad" => Err(Rejection::new("it is bad")),
        text => Ok(text),
    };
    match source.read(&request, accept)? {
        Fetched::New(text) => Ok(text),
        Fetched::NotModified => Ok("not modified".to_owned()),
    }
}

#[test]
fn what_fails_for_a_moment_is_tried_again_with_growing_waits() {
    let busy = || fails(TransportErrorKind::Temporary, None);
    let bench = Bench::new(vec![("a", vec![busy(), busy(), body("x")])]);
    assert_eq!(read(&bench.source()).unwrap(), "x");
    assert_eq!(bench.asked(), "aaa");
    assert!(
        bench.timer.passed() <= Duration::from_millis(1500),
        "0.5 s, then 1 s at most"
    );
    assert!(bench.progress.texts().is_empty(), "nobody needs to know");
}

#[test]
fn a_mirror_that_keeps_failing_is_named_and_left_for_the_rest() {
    let bench = Bench::new(vec![
        ("a", vec![fails(TransportErrorKind::Temporary, None)]),
        ("b", vec![body("x")]),
    ]);
    let source = bench.source();
    assert_eq!(read(&source).unwrap(), "x");
    assert_eq!(read(&source).unwrap(), "x");
    assert_eq!(bench.asked(), "abb");
    assert!(
        bench.timer.passed().is_zero(),
        "nobody waits while another can be asked"
    );
    let texts = bench.progress.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("http://m/file") && texts[0].contains("as the script says"));
    assert_eq!(source.traffic().requests, 3);
    assert_eq!(source.traffic().bytes, 2);
}

#[test]
fn mirrors_that_all_fail_for_a_moment_take_turns() {
    let busy = || fails(TransportErrorKind::Temporary, None);
    let bench = Bench::new(vec![("a", vec![busy(), busy(), body("x")]), ("b", vec![busy()])]);
    let source = bench.source();
    assert_eq!(read(&source).unwrap(), "x");
    assert!(bench.asked().starts_with("ab"), "{}", bench.asked());
    // And each has its tries.
    let bench = Bench::new(vec![("a", vec![busy()]), ("b", vec![busy()])]);
    read(&bench.source()).unwrap_err();
    let asked = bench.asked();
    assert_eq!(asked.matches('a').count(), 5);
    assert_eq!(asked.matches('b').count(), 5);
}

#[test]
fn a_long_wait_is_told_of() {
    let bench = Bench::new(vec![(
        "a",
        vec![fails(TransportErrorKind::Temporary, Some(40)), body("x")],
    )]);
    read(&bench.source()).unwrap();
    let texts = bench.progress.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].contains("as the script says") && texts[0].contains("in 40 seconds"),
        "{texts:?}"
    );
}

#[test]
fn a_condition_that_is_refused_is_left_out() {
    let strict = || -> Step {
        Box::new(|request| match request.if_none_match {
            Some(_) => fails(TransportErrorKind::Denied, None)(request),
            None => answer(Status::Whole, b"x"),
        })
    };
    let bench = Bench::new(vec![("a", vec![strict()])]);
    let source = bench.source();
    let request = Request::whole("file", 10);
    let fetched = source.read_if_changed(&request, Some(("a", "\"t\"")), |bytes, _| Ok(bytes));
    assert!(matches!(fetched.unwrap(), Fetched::New(bytes) if bytes == b"x"));
    assert_eq!(bench.asked(), "aa");
    // Once only, where it is not the condition.
    let bench = Bench::new(vec![("a", vec![fails(TransportErrorKind::Denied, None)])]);
    let source = bench.source();
    let fetched = source.read_if_changed(&request, Some(("a", "\"t\"")), |_, _| Ok(()));
    assert_eq!(fetched.unwrap_err().kind, TransportErrorKind::Denied);
    assert_eq!(bench.asked(), "aa");
}

#[test]
fn a_mirror_that_lies_is_left_at_once_and_asked_when_no_other_is_left() {
    let bench = Bench::new(vec![
        ("a", vec![body("bad"), body("x")]),
        ("b", vec![body("y"), fails(TransportErrorKind::NotFound, None)]),
    ]);
    let source = bench.source();
    assert_eq!(read(&source).unwrap(), "y");
    assert_eq!(
        read(&source).unwrap(),
        "x",
        "for another file it may be good enough"
    );
    assert_eq!(bench.asked(), "abba");
    assert!(bench.progress.texts()[0].contains("it is bad"));
}

#[test]
fn the_last_error_is_reported_when_every_mirror_failed() {
    let bench = Bench::new(vec![
        ("a", vec![fails(TransportErrorKind::Denied, None)]),
        ("b", vec![fails(TransportErrorKind::NotFound, None)]),
    ]);
    let error = read(&bench.source()).unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::NotFound);
    assert_eq!(bench.asked(), "ab");
    let none = Bench::new(Vec::new());
    assert!(read(&none.source()).unwrap_err().to_string().contains("no URL"));
}

#[test]
fn a_server_that_asks_for_time_gets_it_but_not_for_ever() {
    let bench = Bench::new(vec![(
        "a",
        vec![fails(TransportErrorKind::Temporary, Some(20)), body("x")],
    )]);
    read(&bench.source()).unwrap();
    let passed = bench.timer.passed().as_secs();
    assert!((20..22).contains(&passed), "{passed}");
    let bench = Bench::new(vec![(
        "a",
        vec![fails(TransportErrorKind::Temporary, Some(1 << 40)), body("x")],
    )]);
    read(&bench.source()).unwrap();
    assert!((300..302).contains(&bench.timer.passed().as_secs()));
}

#[test]
fn nobody_waits_long_for_one_mirror_when_there_is_another() {
    let bench = Bench::new(vec![
        ("a", vec![fails(TransportErrorKind::Temporary, Some(120))]),
        ("b", vec![body("x")]),
    ]);
    assert_eq!(read(&bench.source()).unwrap(), "x");
    assert_eq!(bench.asked(), "ab");
    assert!(bench.timer.passed().is_zero());
}

#[test]
fn a_mirror_without_ranges_is_asked_for_the_whole_from_then_on() {
    let refuses = || -> Step {
        Box::new(|request| match &request.range {
            Some(_) => fails(TransportErrorKind::RangeRefused, None)(request),
            None => answer(Status::Whole, b"0123456789"),
        })
    };
    let bench = Bench::new(vec![("a", vec![refuses()])]);
    let source = bench.source();
    assert!(!source.has_no_ranges());
    let request = Request::range("file", 2..4, 10);
    let response = source.attempts().get(&request).unwrap();
    assert_eq!(response.status, Status::Whole);
    assert!(source.has_no_ranges());
    source.attempts().get(&request).unwrap();
    assert_eq!(bench.asked(), "aaa");
}

#[test]
fn a_range_that_only_one_file_lacks_says_nothing_of_the_others() {
    let short = || -> Step {
        Box::new(|request| match &request.range {
            Some(_) => fails(TransportErrorKind::RangeRefused, None)(request),
            None => fails(TransportErrorKind::NotFound, None)(request),
        })
    };
    let bench = Bench::new(vec![("a", vec![short()])]);
    let source = bench.source();
    let error = source
        .attempts()
        .get(&Request::range("file", 2..4, 10))
        .unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::NotFound);
    assert!(!source.has_no_ranges());
    // A transport that refuses ranges where none was asked for must not be asked for ever.
    let bench = Bench::new(vec![("a", vec![fails(TransportErrorKind::RangeRefused, None)])]);
    assert!(
        bench
            .source()
            .attempts()
            .get(&Request::whole("file", 10))
            .is_err()
    );
}

#[test]
fn a_tag_is_shown_only_to_the_mirror_that_gave_it() {
    let known = || -> Step {
        Box::new(|request| match request.if_none_match {
            Some(_) => answer(Status::NotModified, b""),
            None => answer(Status::Whole, b"x"),
        })
    };
    let bench = Bench::new(vec![
        ("a", vec![fails(TransportErrorKind::NotFound, None)]),
        ("b", vec![known()]),
    ]);
    let source = bench.source();
    let request = Request::whole("file", 10);
    let ask = |site| {
        let fetched = source.read_if_changed(&request, Some((site, "\"t\"")), |_, _| Ok(()));
        matches!(fetched.unwrap(), Fetched::NotModified)
    };
    assert!(!ask("a"), "b has never heard of the tag");
    assert!(ask("b"));
    let asked = bench.asked.lock().unwrap();
    assert!(
        asked[0].contains("None Some") && !asked[1].contains("None Some"),
        "{asked:?}"
    );
}

#[test]
fn no_change_is_no_answer_where_nobody_asked_for_one() {
    let lazy = || -> Step { Box::new(|_| answer(Status::NotModified, b"")) };
    let bench = Bench::new(vec![("a", vec![lazy()]), ("b", vec![body("x")])]);
    assert_eq!(read(&bench.source()).unwrap(), "x");
}

#[test]
fn a_body_that_breaks_off_is_asked_for_again() {
    struct Breaks(Cursor<&'static [u8]>);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::ErrorKind::ConnectionReset.into()),
                len => Ok(len),
            }
        }
    }
    let broken = || -> Step {
        Box::new(|_| {
            let mut response = answer(Status::Whole, b"")?;
            response.body = Box::new(Breaks(Cursor::new(b"ha")));
            Ok(response)
        })
    };
    let bench = Bench::new(vec![("a", vec![broken(), body("whole")])]);
    assert_eq!(read(&bench.source()).unwrap(), "whole");
    assert_eq!(bench.asked(), "aa");
}

#[test]
fn who_asks_to_stop_is_not_told_of_bad_mirrors() {
    let bench = Bench::new(vec![
        ("a", vec![fails(TransportErrorKind::Temporary, Some(20))]),
        ("b", vec![body("x")]),
    ]);
    bench.cancel.cancel();
    let source = bench.source();
    assert_eq!(read(&source).unwrap_err().kind, TransportErrorKind::Cancelled);
    assert_eq!(bench.asked(), "");
    let mut attempts = source.attempts();
    attempts.failed("http://m/file", &std::io::ErrorKind::TimedOut.into());
    assert!(bench.progress.texts().is_empty());
    let mut buffer = [0; 4];
    assert!(Metered::new(&source, &b"abcd"[..]).read(&mut buffer).is_err());
}

#[test]
fn a_rate_is_kept_whatever_the_size_of_reads() {
    let mut bench = Bench::new(vec![("a", vec![body("x")])]);
    bench.limit_rate = Some(1000);
    let source = bench.source();
    let mut bytes = Vec::new();
    Metered::new(&source, std::io::repeat(7).take(10_000))
        .read_to_end(&mut bytes)
        .unwrap();
    let passed = bench.timer.passed().as_secs_f64();
    assert!((9.9..10.2).contains(&passed), "{passed}");
}
