//! The three rules against tables, against the tools that implement them, and against our names.

use super::*;
use crate::boot::name::EntryName;
use proptest::prelude::*;
use std::process::{Command, Stdio};

/// From the examples of the Version Format Specification, and from what separators do in rows.
const UAPI: &[(&str, Ordering, &str)] = &[
    ("11", Ordering::Equal, "11"),
    ("systemd-123", Ordering::Equal, "systemd-123"),
    ("bar-123", Ordering::Less, "foo-123"),
    ("123a", Ordering::Greater, "123"),
    ("123.a", Ordering::Greater, "123"),
    ("123.a", Ordering::Less, "123.b"),
    ("123a", Ordering::Greater, "123.a"),
    ("11α", Ordering::Equal, "11β"),
    ("A", Ordering::Less, "a"),
    ("", Ordering::Less, "0"),
    ("0.", Ordering::Greater, "0"),
    ("0.0", Ordering::Greater, "0"),
    ("1_", Ordering::Equal, "1"),
    ("_1", Ordering::Equal, "1"),
    ("1_", Ordering::Less, "1.2"),
    ("1_2_3", Ordering::Greater, "1.3.3"),
    ("1+2+3", Ordering::Greater, "1.3.3"),
    ("123~rc1", Ordering::Less, "123"),
    ("123~rc1", Ordering::Less, "123~rc2"),
    ("1^2", Ordering::Greater, "1"),
    ("1^2", Ordering::Less, "1.1"),
    ("1^2", Ordering::Greater, "1-2"),
    ("1.2", Ordering::Greater, "1-2"),
    ("9", Ordering::Less, "10"),
    ("007", Ordering::Equal, "7"),
    ("1-9", Ordering::Less, "12-1"),
    (
        "99999999999999999999999",
        Ordering::Less,
        "100000000000000000000000",
    ),
];

#[test]
fn versions_compare_as_the_specification_says() {
    for (a, order, b) in UAPI {
        assert_eq!(uapi_version(a, b), *order, "{a:?} and {b:?}");
        assert_eq!(uapi_version(b, a), order.reverse(), "{b:?} and {a:?}");
    }
}

#[test]
fn rpm_versions_compare_as_rpm_does() {
    for (a, order, b) in [
        ("1.0", Ordering::Equal, "1.0"),
        ("1.0", Ordering::Less, "2.0"),
        ("2.0.1", Ordering::Less, "2.0.1a"),
        ("5.5p1", Ordering::Less, "5.5p10"),
        ("10xyz", Ordering::Less, "10.1xyz"),
        ("xyz10", Ordering::Less, "xyz10.1"),
        ("xyz.4", Ordering::Less, "8"),
        ("5.6p7", Ordering::Greater, "5.6p6"),
        ("6.0.rc1", Ordering::Greater, "6.0"),
        ("10b2", Ordering::Greater, "10a1"),
        ("7.4.052", Ordering::Equal, "7.4.52"),
        ("1.0~rc1", Ordering::Less, "1.0"),
        ("1.0~rc1", Ordering::Less, "1.0~rc2"),
        ("2_0", Ordering::Equal, "2.0"),
        ("1+1", Ordering::Greater, "1"),
        ("1+1", Ordering::Less, "1.1"),
        ("atomos-9", Ordering::Less, "atomos-10"),
        ("atomos-9-z", Ordering::Less, "atomos-10-a"),
    ] {
        assert_eq!(rpm_version(a, b), order, "{a:?} and {b:?}");
        assert_eq!(rpm_version(b, a), order.reverse(), "{b:?} and {a:?}");
    }
}

#[test]
fn file_names_are_cut_at_their_last_two_dashes() {
    for (name, parts) in [
        ("kernel-5.14.0-362.fc38.conf", ("kernel", "5.14.0", "362.fc38")),
        ("a-b-c-d.conf", ("a-b", "c", "d")),
        ("ostree-1.conf", ("ostree", "1", "")),
        ("loader.conf", ("loader", "", "")),
    ] {
        assert_eq!(name_version_release(name), parts);
    }
}

/// Words of the characters that the rules treat specially, so that two of them often share a beginning.
fn words() -> impl Strategy<Value = (String, String)> {
    ("[a1~]{0,2}", "[ab01.~^+_-]{0,6}", "[ab01.~^+_-]{0,6}")
        .prop_map(|(common, a, b)| (format!("{common}{a}"), format!("{common}{b}")))
}

fn sample(count: usize) -> Vec<(String, String)> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..count)
        .map(|_| words().new_tree(&mut runner).unwrap().current())
        .collect()
}

#[test]
fn systemd_agrees_on_versions() {
    for (a, b) in sample(400) {
        let status = Command::new("systemd-analyze")
            .args(["--", "compare-versions", &a, &b])
            .stdout(Stdio::null())
            .status();
        let theirs = match status.as_ref().map(std::process::ExitStatus::code) {
            Ok(Some(0)) => Ordering::Equal,
            Ok(Some(11)) => Ordering::Greater,
            Ok(Some(12)) => Ordering::Less,
            _ => return println!("skipped: systemd-analyze compare-versions does not run here ({status:?})"),
        };
        assert_eq!(uapi_version(&a, &b), theirs, "{a:?} and {b:?}");
    }
}

#[test]
fn sort_agrees_on_file_versions() {
    // Releases of coreutils differ on names with a leading dot, which no loader shows.
    let visible = |(a, b): &(String, String)| !a.starts_with('.') && !b.starts_with('.');
    for (a, b) in sample(400).into_iter().filter(visible) {
        let output = Command::new("sh")
            .env("LC_ALL", "C")
            .args(["-c", r#"printf '%s\n' "$1" "$2" | sort -V"#, "sh", &a, &b])
            .output();
        let Ok(output) = output else {
            return println!("skipped: there is no shell here ({output:?})");
        };
        let ours = match gnu_file_version(&a, &b) {
            Ordering::Greater => format!("{b}\n{a}\n"),
            _ => format!("{a}\n{b}\n"),
        };
        assert_eq!(String::from_utf8(output.stdout).unwrap(), ours, "{a:?} and {b:?}");
    }
}

#[test]
fn systemd_boot_sorts_bad_entries_last_and_entries_without_a_key_after_those_with_one() {
    let fields = |file_name, sort_key, machine_id, version| SortFields {
        file_name,
        sort_key,
        machine_id,
        version,
    };
    let shown = [
        fields("x+1.conf", Some("arch"), None, Some("1")),
        fields("z.conf", Some("atomos"), None, Some("12-1")),
        fields("a.conf", Some("atomos"), None, Some("9-7")),
        fields("b.conf", Some("atomos"), None, Some("9-7")).tap(|f| f.file_name = "a+2.conf"),
        fields("a.conf", Some("atomos"), Some("00"), Some("99")),
        fields("y-2.conf", None, None, Some("1")),
        fields("y-1.conf", None, None, Some("2")),
        fields("a+0-3.conf", Some("atomos"), None, Some("13")),
        fields("y-3+0.conf", None, None, None),
    ];
    for (i, a) in shown.iter().enumerate() {
        for (j, b) in shown.iter().enumerate() {
            let same_but_counter = (i.min(j), i.max(j)) == (2, 3);
            if !same_but_counter {
                assert_eq!(systemd_boot(*a, *b), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
    }
    let tried = |file_name| fields(file_name, Some("k"), None, None);
    assert_eq!(
        systemd_boot(tried("a+3.conf"), tried("a+2-1.conf")),
        Ordering::Less
    );
    assert_eq!(
        systemd_boot(tried("a+2-1.conf"), tried("a+2-2.conf")),
        Ordering::Less
    );
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for SortFields<'_> {}

#[test]
fn the_highest_number_is_first_for_every_loader_in_a_table_of_traps() {
    // Newest first. Each line is a way in which a rule could be misled.
    let names = [
        "atomos-100-a-000000000000.0.conf",
        "atomos-99-zzz-ffffffffffff.9.conf",
        "atomos-20-os-999999999999.0+3.conf",
        "atomos-11-debian-0123456789ab.0+2-1.conf",
        "atomos-10-a-b-c-d-e-0123456789ab.0.conf",
        "atomos-9-9-999999999999.999.conf",
        "atomos-8-debian-13+1-0123456789ab.1.conf",
        "atomos-7-debian.13-0123456789ab.1.conf",
        "atomos-6-00-0123456789ab.1.conf",
        "atomos-5-1-0123456789ab.1+1-2.conf",
        "atomos-1-Z-0123456789ab.4294967295.conf",
    ];
    for newest in 0..names.len() {
        for older in newest + 1..names.len() {
            let (newest, older) = (names[newest], names[older]);
            assert_eq!(grub_blscfg(newest, older), Ordering::Less, "{newest} {older}");
            assert_eq!(grub(newest, older), Ordering::Less, "{newest} {older}");
            let fields = |name| systemd_fields(name);
            let ((a, a_version), (b, b_version)) = (fields(newest), fields(older));
            assert_eq!(
                systemd_boot(
                    SortFields {
                        version: Some(&a_version),
                        ..a
                    },
                    SortFields {
                        version: Some(&b_version),
                        ..b
                    }
                ),
                Ordering::Less,
                "{newest} {older}"
            );
        }
    }
}

fn systemd_fields(name: &str) -> (SortFields<'_>, String) {
    let n = name.parse::<EntryName>().unwrap().n;
    let fields = SortFields {
        file_name: name,
        sort_key: Some("atomos"),
        machine_id: None,
        version: None,
    };
    (fields, crate::boot::sort_version(n, "13.2~rc^1-x"))
}

fn entry_name() -> impl Strategy<Value = String> {
    let tries = prop_oneof![Just(String::new()), "\\+[1-9]", "\\+[1-9]-[0-9]"];
    (
        prop_oneof![1u64..200, any::<u64>()],
        "[a-c0-3_+][a-c0-3._+-]{0,6}",
        "[0-9a-f]{12}",
        any::<u32>(),
        tries,
    )
        .prop_map(|(n, stateroot, commit, serial, tries)| {
            format!("atomos-{n}-{stateroot}-{commit}.{serial}{tries}.conf")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_loader_shows_the_highest_number_first(a in entry_name(), b in entry_name()) {
        let n = |name: &str| name.parse::<EntryName>().unwrap().n;
        prop_assume!(n(&a) != n(&b));
        let newest_first = n(&b).cmp(&n(&a));
        prop_assert_eq!(grub_blscfg(&a, &b), newest_first);
        prop_assert_eq!(grub(&a, &b), newest_first);
        let ((fields_a, version_a), (fields_b, version_b)) = (systemd_fields(&a), systemd_fields(&b));
        prop_assert_eq!(
            systemd_boot(
                SortFields { version: Some(&version_a), ..fields_a },
                SortFields { version: Some(&version_b), ..fields_b },
            ),
            newest_first
        );
    }

    #[test]
    fn each_rule_is_a_total_order((a, b) in words(), (c, _) in words()) {
        let by_systemd = |a: &str, b: &str| {
            let fields = |text| SortFields { file_name: text, sort_key: None, machine_id: None, version: None };
            systemd_boot(fields(a), fields(b))
        };
        type Rule<'a> = (&'a str, &'a dyn Fn(&str, &str) -> Ordering);
        let rules: [Rule<'_>; 5] = [
            ("uapi", &uapi_version), ("rpm", &rpm_version), ("gnu", &gnu_file_version),
            ("blscfg", &grub_blscfg), ("systemd-boot", &by_systemd),
        ];
        for (rule, compare) in rules {
            prop_assert_eq!(compare(&a, &a), Ordering::Equal, "{} is reflexive", rule);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse(), "{} is antisymmetric", rule);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le(), "{} is transitive: {:?} {:?} {:?}", rule, a, b, c);
            }
        }
    }
}
