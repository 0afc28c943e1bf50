#!/bin/bash
# dracut sources this file with bash; it has no other syntax for modules.

# Only where atomos is: an ordinary system that has this module installed gets an ordinary initramfs.
check() {
	[ -x "${dracutsysrootdir-}/usr/lib/atomos/atomos-prepare-root" ] || return 1
	return 0
}

depends() {
	echo systemd-initrd
}

# For a transient /etc or root, and for a root that is an image. A kernel that has them built in needs none, and one without cannot do it.
installkernel() {
	hostonly='' instmods -s overlay erofs
	return 0
}

# dracut goes on when this returns an error. No initramfs is better than one that boots the physical root, or what no key vouches for.
atomos_fail() {
	dfatal "atomos: $1 could not be put into the initramfs"
	exit 1
}

# Keys of who may seal images come along: with one, nothing else boots. One in /etc stands before one of the same name in /usr.
install() {
	local directory key
	local unit="$systemdsystemunitdir/atomos-prepare-root.service"
	local wants="$systemdsystemunitdir/initrd-root-fs.target.wants"
	inst_binary /usr/lib/atomos/atomos-prepare-root || atomos_fail atomos-prepare-root
	inst_simple "$moddir/atomos-prepare-root.service" "$unit" || atomos_fail atomos-prepare-root.service
	{ mkdir -p "$initdir$wants" && ln_r "$unit" "$wants/atomos-prepare-root.service"; } || atomos_fail "$wants"
	for directory in /etc/atomos/seal.d /usr/lib/atomos/seal.d; do
		for key in "${dracutsysrootdir-}$directory"/*.pub; do
			[ -f "$key" ] || continue
			inst "${key#"${dracutsysrootdir-}"}" "/etc/atomos/seal.d/${key##*/}" || atomos_fail "$key"
		done
	done
}
