package sandbox

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/local/process"
)

// listening finds where the processes of a group listen: their sockets' inodes, looked up
// among the network namespace's listening sockets.
func listening(group int) []netip.AddrPort {
	inodes := map[string]bool{}
	for _, pid := range process.Members(group) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if inode, ok := strings.CutPrefix(link, "socket:["); err == nil && ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var out []netip.AddrPort
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", group, table))
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if a, inode, ok := parseListener(lines.Text()); ok && inodes[inode] && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
		f.Close()
	}
	return out
}

// parseListener reads a line of /proc/net/tcp (proc(5)): the second field is the local
// address, the fourth the state (0A: listening), the tenth the inode. An address is a
// sequence of 32-bit words in the machine's byte order, here little-endian.
func parseListener(line string) (a netip.AddrPort, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != "0A" {
		return a, "", false
	}
	host, port, found := strings.Cut(f[1], ":")
	number, err := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(host)
	if !found || err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return a, "", false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), f[9], true
}
