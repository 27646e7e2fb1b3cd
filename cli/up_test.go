package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// answerUp is a stand-in for `weir up` on one connection of up.sock (docs/design/local.md).
func answerUp(ts *testscript.TestScript, c *net.UnixConn) {
	defer c.Close()
	first, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4*3))
	n, oobn, _, _, err := c.ReadMsgUnix(first, oob)
	if err != nil {
		return
	}
	var files []*os.File
	messages, _ := syscall.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, _ := syscall.ParseUnixRights(&m)
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			defer f.Close()
			files = append(files, f)
		}
	}
	lines := bufio.NewReader(io.MultiReader(bytes.NewReader(first[:n]), c))
	line, err := lines.ReadString('\n')
	if err != nil {
		return
	}
	var r map[string]any
	if json.Unmarshal([]byte(line), &r) != nil {
		return
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(c, format+"\n", args...) }
	switch {
	case r["workload"] == "missing":
		say(`{"error": "there is no workload missing", "hint": "weir status lists them"}`)
		return
	case r["do"] == "logs":
		_, _ = fmt.Fprint(files[0], line)
		say(`{"exit": 0}`)
		return
	case r["do"] == "run":
		say(`{"message": "waiting for its proxy"}`)
		say(`{"workload": "default/reviews-v4-0"}`)
	}
	delete(r, "dir")
	if r["do"] == "run" {
		if env, _ := r["environ"].([]any); !slices.Contains(env, any("HOME=/no-home")) { // the script's
			_, _ = fmt.Fprintf(files[2], "the environment is not sent: %v\n", env)
		}
		delete(r, "environ")
	}
	asked, _ := json.Marshal(r)
	_, _ = fmt.Fprintf(files[1], "%s\n", asked)
	in, _ := bufio.NewReader(files[0]).ReadString('\n')
	_, _ = fmt.Fprintf(files[1], "input %q\n", in)
	ts.Value("mesh").(*standInMesh).asked <- struct{}{}
	if argv := r["argv"].([]any); argv[len(argv)-1] == "wait" {
		note, _ := lines.ReadString('\n')
		_, _ = fmt.Fprintf(files[1], "%s", note)
	}
	say(`{"exit": 3}`)
}
