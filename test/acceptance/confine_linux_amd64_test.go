package acceptance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// confined is whom a pod's proxy runs as.
const confined = 1337

// profile is a seccomp profile of container runtimes, as far as ours uses their language.
type profile struct {
	DefaultAction string
	Syscalls      []struct {
		Action string
		Names  []string
	}
}

func readProfile(path string) (allowed []string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var p profile
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if p.DefaultAction != "SCMP_ACT_ERRNO" {
		return nil, fmt.Errorf("%s: what is not listed gets %s", path, p.DefaultAction)
	}
	for _, s := range p.Syscalls {
		if s.Action != "SCMP_ACT_ALLOW" {
			return nil, fmt.Errorf("%s: action %s is not one that this test knows", path, s.Action)
		}
		allowed = append(allowed, s.Names...)
	}
	return allowed, nil
}

// confine runs the real weir-proxy beside this program, with this one's arguments, as the strictest pod would have it: as nobody
// in particular, without capabilities and ways to get some, on a file system where only its own folders can be written, and with
// the system calls of the profile beside it. Any other ends it, with the trace of who made it: where a container runtime would
// return an error, a test wants to hear of it.
func confine() error {
	runtime.LockOSThread() // mounts, rights and the filter are this thread's, which becomes the program
	self := os.Args[0]
	allowed, err := readProfile(filepath.Join(filepath.Dir(self), "weir-proxy.json"))
	if err != nil {
		return err
	}
	filter, err := seccomp(allowed)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	own, err := folders(os.Args)
	if err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("a root that cannot be written: %w", err)
	}
	for _, dir := range own {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("%s, which it writes to: %w", dir, err)
		}
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(confined, confined, confined), syscall.Setresuid(confined, confined, confined)); err != nil {
		return fmt.Errorf("becoming %d: %w", confined, err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return syscall.Exec(self+".real", os.Args, os.Environ())
}

// folders are those that the proxy of a command line writes to, made its own; it is let through to what else is in the state folder.
func folders(args []string) (own []string, err error) {
	for i, a := range args {
		value := ""
		if i+1 < len(args) {
			value = strings.TrimPrefix(args[i+1], "unix://")
		}
		switch a {
		case "--state":
			own = append(own, value)
		case "--admin":
			own = append(own, filepath.Dir(value))
		case "--xds":
			err = errors.Join(err, os.Chmod(value, 0o666))
		case "--ca-root":
			err = errors.Join(err, os.Chmod(value, 0o644), os.Chmod(filepath.Dir(value), 0o711))
		}
	}
	for _, dir := range own {
		err = errors.Join(err, os.MkdirAll(dir, 0o700), filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, confined, confined))
		}), unix.Mount(dir, dir, "", unix.MS_BIND, ""))
		for up := filepath.Dir(dir); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
			info, statErr := os.Stat(up)
			if err = errors.Join(err, statErr); err != nil {
				return nil, err
			}
			err = errors.Join(err, os.Chmod(up, info.Mode().Perm()|0o001))
		}
	}
	return own, err
}

// seccomp makes the filter that lets system calls of these names through and traps all others.
func seccomp(allowed []string) ([]unix.SockFilter, error) {
	const archAt, callAt = 4, 0 // of struct seccomp_data
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: callAt, Size: 4},
	}
	for _, name := range allowed {
		n, ok := calls[name]
		if !ok {
			return nil, fmt.Errorf("the profile has %q, and this test does not know its number", name)
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_TRAP}))
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// calls are the numbers of what may stand in the profile.
var calls = map[string]uint32{
	"accept4": unix.SYS_ACCEPT4, "arch_prctl": unix.SYS_ARCH_PRCTL, "bind": unix.SYS_BIND, "clock_gettime": unix.SYS_CLOCK_GETTIME,
	"clock_nanosleep": unix.SYS_CLOCK_NANOSLEEP, "clone": unix.SYS_CLONE, "close": unix.SYS_CLOSE, "connect": unix.SYS_CONNECT,
	"epoll_create1": unix.SYS_EPOLL_CREATE1, "epoll_ctl": unix.SYS_EPOLL_CTL, "epoll_pwait": unix.SYS_EPOLL_PWAIT, "eventfd2": unix.SYS_EVENTFD2,
	"execve": unix.SYS_EXECVE, "exit": unix.SYS_EXIT, "exit_group": unix.SYS_EXIT_GROUP, "fchmod": unix.SYS_FCHMOD, "fchmodat": unix.SYS_FCHMODAT,
	"fcntl": unix.SYS_FCNTL, "flock": unix.SYS_FLOCK, "fstat": unix.SYS_FSTAT, "fsync": unix.SYS_FSYNC, "ftruncate": unix.SYS_FTRUNCATE,
	"futex": unix.SYS_FUTEX, "getcwd": unix.SYS_GETCWD, "getdents64": unix.SYS_GETDENTS64, "getegid": unix.SYS_GETEGID, "geteuid": unix.SYS_GETEUID,
	"getgid": unix.SYS_GETGID, "getpeername": unix.SYS_GETPEERNAME, "getpid": unix.SYS_GETPID, "getppid": unix.SYS_GETPPID,
	"getrandom": unix.SYS_GETRANDOM, "getsockname": unix.SYS_GETSOCKNAME, "getsockopt": unix.SYS_GETSOCKOPT, "gettid": unix.SYS_GETTID,
	"gettimeofday": unix.SYS_GETTIMEOFDAY, "getuid": unix.SYS_GETUID, "inotify_add_watch": unix.SYS_INOTIFY_ADD_WATCH,
	"inotify_init1": unix.SYS_INOTIFY_INIT1, "inotify_rm_watch": unix.SYS_INOTIFY_RM_WATCH, "listen": unix.SYS_LISTEN, "lseek": unix.SYS_LSEEK,
	"madvise": unix.SYS_MADVISE, "mincore": unix.SYS_MINCORE, "mkdirat": unix.SYS_MKDIRAT, "mmap": unix.SYS_MMAP, "mprotect": unix.SYS_MPROTECT,
	"munmap": unix.SYS_MUNMAP, "nanosleep": unix.SYS_NANOSLEEP, "newfstatat": unix.SYS_NEWFSTATAT, "openat": unix.SYS_OPENAT, "pipe2": unix.SYS_PIPE2,
	"prctl": unix.SYS_PRCTL, "pread64": unix.SYS_PREAD64, "prlimit64": unix.SYS_PRLIMIT64, "pwrite64": unix.SYS_PWRITE64, "read": unix.SYS_READ,
	"readlinkat": unix.SYS_READLINKAT, "recvfrom": unix.SYS_RECVFROM, "recvmsg": unix.SYS_RECVMSG, "renameat": unix.SYS_RENAMEAT,
	"renameat2": unix.SYS_RENAMEAT2, "restart_syscall": unix.SYS_RESTART_SYSCALL, "rt_sigaction": unix.SYS_RT_SIGACTION,
	"rt_sigprocmask": unix.SYS_RT_SIGPROCMASK, "rt_sigreturn": unix.SYS_RT_SIGRETURN, "sched_getaffinity": unix.SYS_SCHED_GETAFFINITY,
	"sched_yield": unix.SYS_SCHED_YIELD, "sendmsg": unix.SYS_SENDMSG, "sendto": unix.SYS_SENDTO, "setitimer": unix.SYS_SETITIMER,
	"setsockopt": unix.SYS_SETSOCKOPT, "shutdown": unix.SYS_SHUTDOWN, "sigaltstack": unix.SYS_SIGALTSTACK, "socket": unix.SYS_SOCKET,
	"splice": unix.SYS_SPLICE, "tgkill": unix.SYS_TGKILL, "timer_create": unix.SYS_TIMER_CREATE, "timer_delete": unix.SYS_TIMER_DELETE,
	"timer_settime": unix.SYS_TIMER_SETTIME, "uname": unix.SYS_UNAME, "unlinkat": unix.SYS_UNLINKAT, "write": unix.SYS_WRITE, "writev": unix.SYS_WRITEV,
}
