package life

import (
	"bufio"
	"io/fs"
	"strconv"
	"strings"
)

// Sockets looks for TCP sockets in this network namespace that are not of user uid, the
// proxy's: a pod's containers share the namespace, and nothing else that tells of them.
// files is the root of the file system.
func Sockets(files fs.FS, uid int) Application {
	seen := Unknown
	for _, name := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		f, err := files.Open(name)
		if err != nil {
			continue
		}
		if seen == Unknown {
			seen = Absent
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if foreign(lines.Text(), uid) {
				seen = Present
				break
			}
		}
		if lines.Err() != nil && seen == Absent {
			seen = Unknown
		}
		_ = f.Close()
	}
	return seen
}

// foreign reads a line of /proc/net/tcp (proc_pid_net(5)): "sl local remote st tx:rx tr:tm
// retrnsmt uid timeout inode …". A socket that no process holds any more has no inode.
func foreign(line string, uid int) bool {
	f := strings.Fields(line)
	if len(f) < 10 {
		return false
	}
	owner, err := strconv.Atoi(f[7])
	if err != nil || owner == uid { // the head of the table, too
		return false
	}
	inode, err := strconv.ParseUint(f[9], 10, 64)
	return err == nil && inode != 0
}
