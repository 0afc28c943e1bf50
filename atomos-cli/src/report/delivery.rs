//! What stands in the way of publishing and pulling, and the next command to try.

use libatomos::ErrorKind;
use libatomos::publish::PublishError;
use libatomos::pull::PullError;
use libatomos::remote::RemoteError;
use libatomos::sign::SignError;
use libatomos::transport::{TransportError, TransportErrorKind};

use super::store::hint_for_lock;
use super::{CliError, shown};
use crate::output::text::time;

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Repo(error) => error.into(),
            error => {
                let hint = hint_for_remote(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<PullError> for CliError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Repo(error) => error.into(),
            PullError::Remote(error) => error.into(),
            PullError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_pull(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<PublishError> for CliError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Repo(error) => error.into(),
            PublishError::Fs(error) if error.kind() == ErrorKind::NoSpace => {
                let hint = "the disk that the site is on is full, and what was not published is removed from it; `atomos site prune DIR` removes what only old releases need";
                Self::new(error.kind(), error, Some(hint.to_owned()))
            }
            PublishError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_publish(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

fn hint_for_remote(error: &RemoteError) -> Option<String> {
    Some(match error {
        RemoteError::NotFound { .. } => {
            "`atomos remote list` lists the remotes, `atomos remote add` adds one".to_owned()
        }
        RemoteError::Exists { name } => {
            format!("--force replaces it; `atomos remote show {name}` shows it")
        }
        RemoteError::Replaced { name } => {
            format!("`atomos remote show {name}` shows the keys that count now; run the command again")
        }
        RemoteError::Config { path, .. } => format!("look at {}", shown(path)),
        RemoteError::DamagedState { path, .. } => format!(
            "remove {}, if you are sure that nobody offers you an old version: the next record is then taken for the newest",
            shown(path)
        ),
        _ => return None,
    })
}

fn hint_for_pull(error: &PullError) -> Option<String> {
    Some(match error {
        PullError::Untrusted { .. } => {
            "`atomos remote show NAME` shows the keys that count; ask the publisher whether they are right"
                .to_owned()
        }
        PullError::WebPage { .. } => {
            "where the network wants a login, log in with a browser, then run the command again; `atomos remote show NAME` shows where the site is"
                .to_owned()
        }
        PullError::OlderThanCopy { path, .. } => {
            format!(
                "nothing was changed; the remote's site is behind, or not what it was: where that is right, remove {}",
                shown(path)
            )
        }
        PullError::Lock(error) => return hint_for_lock(error),
        PullError::Older { .. } => "ask the publisher, or name another mirror".to_owned(),
        PullError::Expired {
            expires,
            now,
            key_set: Some(_),
            ..
        } => format!(
            "it was good until {}, and it is {} or later; look at this machine's clock; if it is right, the publisher has to go over to a new key set, and `bundle apply --accept-expired` takes a bundle all the same",
            time(*expires),
            time(*now)
        ),
        PullError::Expired { expires, now, .. } => format!(
            "it was good until {}, and it is {} or later; look at this machine's clock; if it is right, the publisher has to publish again, and `bundle apply --accept-expired` takes a bundle all the same",
            time(*expires),
            time(*now)
        ),
        PullError::Incompatible { .. } => {
            "if this machine is one of those, say so in the remote's `compatible`".to_owned()
        }
        PullError::Withdrawn { .. } | PullError::Downgrade { .. } => {
            "--allow-downgrade takes it all the same".to_owned()
        }
        PullError::NoSuchRelease {
            remote, reference, ..
        } => {
            format!("`atomos history {remote} {reference}` lists what there is")
        }
        PullError::TooManyBytes { needed, .. } => format!("--max-bytes {needed} allows it"),
        PullError::NoSpace { .. } => "`atomos cleanup` and `atomos prune` make room".to_owned(),
        PullError::BadObject { .. } => "try again later: what came is kept".to_owned(),
        PullError::NoSuchRef { remote, .. } => format!(
            "`atomos remote show {remote}` shows where the site is; ask the publisher what its refs are"
        ),
        PullError::Gone { reference, .. } => format!(
            "sites keep a number of releases, and bundles are for certain versions: pull the newest one, {reference}, from a whole site"
        ),
        PullError::NotAMirror { .. } => "choose an empty directory with --to DIR".to_owned(),
        PullError::NoSubpath { path, .. } => format!(
            "pull it whole, then `atomos ls REMOTE:REF` lists what there is; {path} is looked for from the root of the tree"
        ),
        PullError::Transport(error) => return hint_for_transport(error),
        PullError::Cancelled(_) => "run the command again: it takes up what came".to_owned(),
        _ => return None,
    })
}

fn hint_for_transport(error: &TransportError) -> Option<String> {
    Some(match error.kind {
        TransportErrorKind::Temporary | TransportErrorKind::Cancelled => {
            "run the command again: it takes up what came".to_owned()
        }
        TransportErrorKind::NotFound | TransportErrorKind::Protocol | TransportErrorKind::TooLarge => {
            "`atomos remote show NAME` shows where the site is; what came is kept, and another mirror may have the rest"
                .to_owned()
        }
        TransportErrorKind::Denied if error.url.starts_with("file:") => {
            "look at the modes of that file and of the directories above it".to_owned()
        }
        TransportErrorKind::Refused => {
            "`atomos remote show NAME` shows where the site is, and the headers that are sent; whoever runs the server can say what it does not like"
                .to_owned()
        }
        TransportErrorKind::Denied => {
            "`atomos remote add --force` takes credentials: --user, --token-file, --netrc, --client-cert; those of a proxy stand in its URL, --proxy http://USER:PASSWORD@HOST:PORT".to_owned()
        }
        TransportErrorKind::Untrusted => {
            "`atomos remote add --force --ca FILE` adds a certificate authority".to_owned()
        }
        _ => return None,
    })
}

fn hint_for_publish(error: &PublishError) -> Option<String> {
    Some(match error {
        PublishError::NotOurs { .. } => "choose an empty directory with --to DIR".to_owned(),
        PublishError::MissingKeys { .. } => {
            "name the secret keys with --key FILE; it can be repeated".to_owned()
        }
        PublishError::OtherKeys { .. } => {
            "sign with the keys that signed it; `atomos key set create` goes over to other keys, and --pinned FILE.pub names those of before".to_owned()
        }
        PublishError::KeySet { number: 1, .. } => {
            "name the keys that machines were given with --pinned FILE.pub; `atomos key set sign` adds signatures".to_owned()
        }
        PublishError::KeySet { .. } => {
            "`atomos key set show FILE --site DIR` says whose signatures are missing, `atomos key set sign` adds them".to_owned()
        }
        PublishError::NotASite { .. } => {
            "a site is a directory that `atomos publish --to DIR` or `atomos mirror` has made".to_owned()
        }
        PublishError::Collision { other, path, .. } => format!(
            "give it another name, or take the other ref off the site: `atomos site remove-ref {} {other}`",
            shown(path)
        ),
        PublishError::RemoteRef { reference } => {
            let own = reference.as_str().rsplit(':').next().unwrap_or_default();
            format!("`atomos refs --create {own}={reference}` makes a ref of your own of it")
        }
        PublishError::TooLarge { .. } => {
            "the site is as it was; give it shorter texts: --version and --subject of the commit, fewer --compatible, a shorter --reason".to_owned()
        }
        PublishError::Reason { .. } => "say it in a line, and name a page that has the rest".to_owned(),
        PublishError::KeySetExpired { expires, .. } => format!(
            "it ended {}; look at this machine's clock; if it is right, `atomos key set create --site DIR --expires DAYS` makes the next one, which the root keys of this one still sign, and `publish --key-set FILE` goes over to it",
            time(*expires)
        ),
        PublishError::Sign(SignError::Signing { .. }) => {
            "no record has changed; run the command by itself: from its standard input it reads what is to be signed, and it prints the 64 bytes of the signature".to_owned()
        }
        PublishError::Withdrawn { .. } => {
            "it is taken back already, and stays so; `atomos history REMOTE REF` lists what there is".to_owned()
        }
        PublishError::Clock { .. } => {
            "look at this machine's clock, and at that of the machine that signed or committed; where the other was wrong, --expires DAYS reaches past it, and a new key set (docs/keys.md) ends what a record said".to_owned()
        }
        PublishError::RecordLost { path, .. } => format!(
            "copy {} back from a server or a mirror that has it; if no machine knows the ref any more, --anew begins it again",
            shown(path)
        ),
        PublishError::MinFrom { .. } => "`atomos history REMOTE REF` lists the releases of a site that is a remote".to_owned(),
        PublishError::LastSequence { .. } => {
            "go over to a new key set, which starts the counter again: docs/keys.md, `atomos key set create`".to_owned()
        }
        PublishError::NoSuchRelease { .. } => {
            "`atomos history REMOTE REF` lists the releases of a site that is a remote".to_owned()
        }
        PublishError::Pruned { .. } => {
            "name a version that the site has still with --from, or make a bundle for everybody without --from".to_owned()
        }
        PublishError::Barrier { .. } => {
            "take a whole mirror or an older copy of the site for SITE; whoever has that release goes on by a bundle with its version as --from".to_owned()
        }
        PublishError::Damaged { .. } => "`atomos site fsck DIR` says what else is damaged".to_owned(),
        PublishError::NothingLeft { .. } => {
            "publish a release that takes its place; it must be another commit, so commit it anew".to_owned()
        }
        PublishError::NoRefs { .. } => "`atomos commit --ref REF DIR` makes one".to_owned(),
        PublishError::Lock(error) => return hint_for_lock(error),
        PublishError::Cancelled(_) => "the site is as it was; run the command again".to_owned(),
        _ => return None,
    })
}
