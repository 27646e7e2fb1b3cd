package agent

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/capture/cni"
)

// host is the folders of a node, with the files that are there.
func host(t *testing.T, network map[string]string) *Files {
	t.Helper()
	dir := t.TempDir()
	f := &Files{Program: filepath.Join(dir, "program"), Net: filepath.Join(dir, "net.d"), Bin: filepath.Join(dir, "bin"), Run: filepath.Join(dir, "run"),
		HostRun: "/var/run/weir-cni", Exclude: []string{"kube-system"}}
	for _, d := range []string{f.Net, f.Bin, f.Run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f.Program, "ELF 1")
	for _, others := range []string{"ptp", "portmap"} {
		write(t, filepath.Join(f.Bin, others), "")
	}
	for name, text := range network {
		write(t, filepath.Join(f.Net, name), text)
	}
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// folder is what is in a folder, on one line each; of configurations the plugins alone.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if filepath.Ext(e.Name()) == ".conflist" {
			var types []string
			for _, part := range strings.Split(text, `"type": "`)[1:] {
				name, _, _ := strings.Cut(part, `"`)
				types = append(types, name)
			}
			text = strings.Join(types, " ")
		}
		out[e.Name()] = text
	}
	return out
}

const (
	ptp  = `{"name":"n","cniVersion":"0.4.0","type":"ptp"}`
	list = `{"name": "n","plugins":[{"type": "ptp"},{"type": "portmap"}]}`
)

// What is written, what is put right after others wrote, and what is left at the end.
func TestFiles(t *testing.T) {
	for _, c := range []struct {
		name                    string
		before, installed, left map[string]string
		rewritten               map[string]string // by the network's own plugin
		after                   map[string]string // installed again
	}{
		{name: "a list is extended; others' files stay",
			before:    map[string]string{"10-a.conflist": list, "20-b.conflist": list, "README": "hello"},
			installed: map[string]string{"10-a.conflist": "ptp portmap weir-cni", "20-b.conflist": "ptp portmap", "README": "hello"},
			rewritten: map[string]string{"10-a.conflist": list},
			after:     map[string]string{"10-a.conflist": "ptp portmap weir-cni", "20-b.conflist": "ptp portmap", "README": "hello"},
			left:      map[string]string{"10-a.conflist": "ptp portmap", "20-b.conflist": "ptp portmap", "README": "hello"}},
		{name: "one plugin gets a list in its place, and its own file back at the end",
			before:    map[string]string{"10-a.conf": ptp},
			installed: map[string]string{"10-a.conflist": "weir-cni", "10-a.conf.weir-saved": ptp},
			rewritten: map[string]string{"10-a.conf": `{"name":"n2","type":"ptp"}`},
			after:     map[string]string{"10-a.conflist": "weir-cni", "10-a.conf.weir-saved": `{"name":"n2","type":"ptp"}`},
			left:      map[string]string{"10-a.conf": `{"name":"n2","type":"ptp"}`}},
		{name: "a network that comes first by name takes over, with the plugin",
			before:    map[string]string{"10-a.conflist": list},
			installed: map[string]string{"10-a.conflist": "ptp portmap weir-cni"},
			rewritten: map[string]string{"05-b.conflist": list},
			after:     map[string]string{"05-b.conflist": "ptp portmap weir-cni", "10-a.conflist": "ptp portmap weir-cni"},
			left:      map[string]string{"05-b.conflist": "ptp portmap", "10-a.conflist": "ptp portmap"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := host(t, c.before)
			install := func(changes bool) {
				t.Helper()
				if _, changed, err := f.WriteConf(); err != nil || changed != changes {
					t.Fatalf("changed %v, %v", changed, err)
				}
			}
			check := func(what string, want map[string]string) {
				t.Helper()
				got := folder(t, f.Net)
				for name, text := range want { // ptp of a list that was one plugin is written without a space
					if text == "weir-cni" && strings.HasSuffix(got[name], " weir-cni") {
						got[name] = "weir-cni"
					}
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s: (-want +got)\n%s", what, d)
				}
			}
			install(true)
			check("installed", c.installed)
			install(false)
			for name, text := range c.rewritten {
				write(t, filepath.Join(f.Net, name), text)
			}
			install(true)
			check("installed again", c.after)
			install(false)
			if _, err := f.WriteProgram(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAccess(cni.Access{Server: "https://10.0.0.1:443", Token: "t"}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := f.Remove(); err != nil {
					t.Fatal(err)
				}
				check("removed", c.left)
				if rest := slices.Collect(maps.Keys(folder(t, f.Bin))); len(rest) != 2 {
					t.Errorf("bin: %v", rest)
				}
				if rest := slices.Collect(maps.Keys(folder(t, f.Run))); len(rest) > 0 {
					t.Errorf("run: %v", rest)
				}
			}
		})
	}
}

// What an agent that was killed had begun to write goes with the next that writes, once it is too old to be another's who writes now, and
// all of it goes in the end.
func TestUnfinished(t *testing.T) {
	f := host(t, map[string]string{"10-a.conflist": list})
	bin := filepath.Join(f.Bin, cni.Type)
	for _, path := range []string{bin + ".weir-new-1", bin + ".weir-new-2", bin + "-of-others", filepath.Join(f.Net, "10-a.conflist.weir-new-1"), filepath.Join(f.Run, "kubeconfig.weir-new-1")} {
		write(t, path, "half")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(bin+".weir-new-1", old, old); err != nil {
		t.Fatal(err)
	}
	named := func(dir string) (out []string) {
		for name := range folder(t, dir) {
			if strings.HasPrefix(name, cni.Type) || strings.Contains(name, "weir-new") {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	check := func(what string, want ...string) {
		t.Helper()
		if got := slices.Concat(named(f.Bin), named(f.Net), named(f.Run)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	if _, err := f.WriteProgram(); err != nil {
		t.Fatal(err)
	}
	check("written", "weir-cni", "weir-cni-of-others", "weir-cni.weir-new-2", "10-a.conflist.weir-new-1", "kubeconfig.weir-new-1")
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	check("removed", "weir-cni-of-others")
}

// A configuration that says the same in other words is left as it is: two who put things
// right must not take turns for ever.
func TestSameInOtherWords(t *testing.T) {
	f := host(t, map[string]string{"10-a.conflist": list})
	if _, _, err := f.WriteConf(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.Net, "10-a.conflist")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.ReplaceAll(string(data), "\n", " "))
	if _, changed, err := f.WriteConf(); changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
}

// No network yet is waited for; a file that is named is taken, whatever comes first.
func TestConf(t *testing.T) {
	f := host(t, map[string]string{"05-a.conflist": list})
	f.Conf = "10-mine.conflist"
	if _, _, err := f.WriteConf(); err == nil {
		t.Error("a file that is not there")
	}
	write(t, filepath.Join(f.Net, f.Conf), list)
	if name, changed, err := f.WriteConf(); name != f.Conf || !changed || err != nil {
		t.Error(name, changed, err)
	}
	write(t, filepath.Join(f.Net, f.Conf), `{"name":"n","plugins":[{"type":"calico"}]}`)
	if _, _, err := f.WriteConf(); err == nil || !strings.Contains(err.Error(), `its plugin "calico" is not in the folder`) {
		t.Errorf("a folder where runtimes do not look: %v", err)
	}
	write(t, filepath.Join(f.Net, f.Conf), "{")
	if _, _, err := f.WriteConf(); err == nil || !strings.Contains(err.Error(), "10-mine.conflist: unexpected end") {
		t.Error(err)
	}
}

// The program is there, whole and executable, whatever becomes of it.
func TestProgram(t *testing.T) {
	f := host(t, nil)
	path := filepath.Join(f.Bin, cni.Type)
	for _, c := range []struct {
		name   string
		do     func()
		change bool
	}{
		{"not there", func() {}, true},
		{"as it should be", func() {}, false},
		{"found by another agent", func() { f.program = nil }, false},
		{"another's", func() { write(t, path, "ELF 0") }, true},
		{"longer", func() { write(t, path, "ELF 1 and more") }, true},
		{"not executable", func() { _ = os.Chmod(path, 0o600) }, true},
		{"deleted", func() { _ = os.Remove(path) }, true},
		{"a new version", func() { f.program = nil; write(t, f.Program, "ELF 2") }, true},
	} {
		c.do()
		changed, err := f.WriteProgram()
		if changed != c.change || err != nil {
			t.Errorf("%s: changed %v, %v", c.name, changed, err)
		}
		want, _ := os.ReadFile(f.Program)
		got, _ := os.ReadFile(path)
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o755 || string(got) != string(want) {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
	if names := slices.Collect(maps.Keys(folder(t, f.Bin))); len(names) != 3 {
		t.Errorf("left over: %v", names)
	}
}

// The plugin has tens of megabytes, and a node of pods has better use for them than a copy in the agent's memory.
func TestProgramIsNotReadWhole(t *testing.T) {
	f := host(t, nil)
	const size = 8 << 20
	write(t, f.Program, strings.Repeat("ELF 1...", size/8))
	for _, change := range []bool{true, false} {
		f.program = nil
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		changed, err := f.WriteProgram()
		runtime.ReadMemStats(&after)
		if changed != change || err != nil {
			t.Errorf("changed %v, %v", changed, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > size/8 {
			t.Errorf("changed %v: %d bytes for a program of %d", changed, took, size)
		}
	}
}
