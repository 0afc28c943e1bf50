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

install() {
	inst_binary /usr/lib/atomos/atomos-prepare-root
	inst_simple "$moddir/atomos-prepare-root.service" "$systemdsystemunitdir/atomos-prepare-root.service"
	mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.wants"
	ln_r "$systemdsystemunitdir/atomos-prepare-root.service" \
		"$systemdsystemunitdir/initrd-root-fs.target.wants/atomos-prepare-root.service"
}
