package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// view is what a pod's processes see of the file system, where it is not the host's.
type view struct {
	resolvConf, hosts, nsswitch string
}

// Folders that hold the sockets of programs which resolve names beside DNS: covered by
// empty ones.
var resolverFolders = []string{"/run/systemd/resolve", "/run/nscd", "/var/run/nscd"}

// stage is where the files are made: a folder that certainly exists, that holds nothing
// to be covered, and that nobody needs for the moment. Afterwards it is uncovered again.
const stage = "/proc"

// mount shows v to the calling thread, which must be alone in its mount namespace.
func (v view) mount() error {
	files, folders, err := v.plan()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	defer func() { _ = unix.Unmount(stage, unix.MNT_DETACH) }()
	for i, dir := range folders {
		own := filepath.Join(stage, "folder"+strconv.Itoa(i))
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
		for target, content := range files {
			if filepath.Dir(target) != dir {
				continue
			}
			if err := os.WriteFile(filepath.Join(own, filepath.Base(target)), []byte(content), 0o644); err != nil {
				return err
			}
			delete(files, target)
		}
		if err := bind(own, dir); err != nil {
			return err
		}
	}
	for target, content := range files {
		own := filepath.Join(stage, filepath.Base(target))
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			return err
		}
		if err := bind(own, target); err != nil {
			return err
		}
	}
	return nil
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("covering %s: %w", to, err)
	}
	return nil
}

// plan finds what to cover: files with their content, by path without symbolic links, and
// folders. A resolv.conf in a folder below /run is covered with its folder, because the
// programs that write there replace the file, and a mount on a replaced file is gone.
func (v view) plan() (files map[string]string, folders []string, err error) {
	for _, dir := range resolverFolders {
		if real, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(folders, real) {
			folders = append(folders, real)
		}
	}
	files = map[string]string{}
	for _, f := range []struct {
		path, content string
		needed        bool
	}{
		{"/etc/resolv.conf", v.resolvConf, true},
		{"/etc/hosts", v.hosts, false},
		{"/etc/nsswitch.conf", v.nsswitch, false}, // without one, C libraries ask files and DNS
	} {
		real, err := filepath.EvalSymlinks(f.path)
		switch {
		case errors.Is(err, os.ErrNotExist) && !f.needed:
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("a file to cover is missing: %w", err)
		}
		files[real] = f.content
		if dir := filepath.Dir(real); strings.HasPrefix(dir, "/run/") && !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	return files, folders, nil
}
