package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/config"
)

// watch runs a Source and keeps what its units say.
type watch struct {
	t     *testing.T
	units chan []config.Unit
	now   map[string]config.Unit
	steps []string // what was published since the last look
}

func start(t *testing.T, o Options) *watch {
	t.Helper()
	w := &watch{t: t, units: make(chan []config.Unit, 100), now: map[string]config.Unit{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(o).Run(ctx, func(us []config.Unit) { w.units <- us }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.take(<-w.units)
	return w
}

func (w *watch) take(us []config.Unit) {
	for _, u := range us {
		if u.Gone {
			delete(w.now, u.Name)
		} else {
			w.now[u.Name] = u
		}
		w.steps = append(w.steps, fmt.Sprintf("%s %s", filepath.Base(u.Name), describe(u)))
	}
}

func describe(u config.Unit) string {
	if u.Gone {
		return "gone"
	}
	var out []string
	for _, o := range u.Objects {
		out = append(out, o.ID.Name)
	}
	if u.Incomplete {
		out = append(out, "?")
	}
	return strings.Join(out, ",")
}

// until waits for the state of all files, by base name.
func (w *watch) until(want map[string]string) {
	w.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		got := map[string]string{}
		for name, u := range w.now {
			got[filepath.Base(name)] = describe(u)
		}
		if maps.Equal(got, want) {
			return
		}
		select {
		case us := <-w.units:
			w.take(us)
		case <-deadline:
			w.t.Fatalf("the files say %v, want %v", got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func named(names ...string) string {
	var docs []string
	for _, n := range names {
		docs = append(docs, fmt.Sprintf(configMap, n))
	}
	return strings.Join(docs, "---\n")
}

// All the ways in which a file changes are seen, without polling.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), named("a"))
	write(t, filepath.Join(dir, "README.md"), "not ours")
	write(t, filepath.Join(dir, ".hidden.yaml"), named("hidden"))
	w := start(t, Options{Paths: []string{dir}, Poll: time.Hour})
	w.until(map[string]string{"a.yaml": "a"})

	write(t, filepath.Join(dir, "b.yml"), named("b"))
	w.until(map[string]string{"a.yaml": "a", "b.yml": "b"})

	write(t, filepath.Join(dir, "a.yaml"), named("a2"))
	w.until(map[string]string{"a.yaml": "a2", "b.yml": "b"})

	// An editor writes beside and renames.
	write(t, filepath.Join(dir, ".a.yaml.swp"), named("a3", "a4"))
	if err := os.Rename(filepath.Join(dir, ".a.yaml.swp"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"a.yaml": "a3,a4", "b.yml": "b"})

	if err := os.Remove(filepath.Join(dir, "b.yml")); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"a.yaml": "a3,a4"})

	// A folder with folders, made and filled at once.
	if err := os.MkdirAll(filepath.Join(dir, "x/y"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "x/y/c.json"), `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`)
	w.until(map[string]string{"a.yaml": "a3,a4", "c.json": "c"})
	write(t, filepath.Join(dir, "x/y/c.json"), `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c2"}}`)
	w.until(map[string]string{"a.yaml": "a3,a4", "c.json": "c2"})
	if err := os.RemoveAll(filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"a.yaml": "a3,a4"})
}

// A ConfigMap volume swaps a link behind the files.
func TestWatchLinkSwap(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "a.yaml"), named(fmt.Sprint("a", i+1)))
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/a.yaml", "a.yaml")
	folder := start(t, Options{Paths: []string{dir}, Poll: time.Hour})
	one := start(t, Options{Paths: []string{filepath.Join(dir, "a.yaml")}, Poll: time.Hour})
	folder.until(map[string]string{"a.yaml": "a1"})
	one.until(map[string]string{"a.yaml": "a1"})
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	folder.until(map[string]string{"a.yaml": "a2"})
	one.until(map[string]string{"a.yaml": "a2"})
	// A link to a folder above ends there.
	link("..", "loop")
	write(t, filepath.Join(dir, "b.yaml"), named("b"))
	folder.until(map[string]string{"a.yaml": "a2", "b.yaml": "b"})
}

// A file named itself may have any extension, and its removal is a change like another;
// a folder that vanishes takes nothing with it.
func TestWatchRoots(t *testing.T) {
	dir := t.TempDir()
	named1, folder := filepath.Join(dir, "objects.txt"), filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, named1, named("a"))
	write(t, filepath.Join(folder, "b.yaml"), named("b"))
	w := start(t, Options{Paths: []string{named1, folder, "-"}, Stdin: strings.NewReader(named("in")), Poll: time.Hour, Rank: 10})
	w.until(map[string]string{"objects.txt": "a", "b.yaml": "b", "-": "in"})
	if r := [2]int{w.now[named1].Rank, w.now[filepath.Join(folder, "b.yaml")].Rank}; r != [2]int{10, 11} {
		t.Errorf("ranks %v", r)
	}
	if err := os.Remove(named1); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"b.yaml": "b", "-": "in"})
	write(t, named1, named("a"))
	w.until(map[string]string{"objects.txt": "a", "b.yaml": "b", "-": "in"})

	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"objects.txt": "a", "b.yaml": "b", "-": "in", "folder": "?"})
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"objects.txt": "a", "b.yaml": "b", "-": "in"})
}

// A change is published within 50 ms of the end of the write: 9 ms on an idle machine (as
// of 2026-11). The bound allows for a busy one.
func TestLatency(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, named("a"))
	w := start(t, Options{Paths: []string{dir}, Poll: time.Hour})
	var took []time.Duration
	for i := range 20 {
		want := fmt.Sprint("a", i)
		write(t, path, named(want))
		begin := time.Now()
		w.until(map[string]string{"a.yaml": want})
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("median %v, worst %v", took[10], took[19])
	if took[10] > 250*time.Millisecond {
		t.Errorf("the median is %v", took[10])
	}
}

func TestReadSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := New(Options{Paths: []string{filepath.Join(dir, "none.yaml")}}).Read()
	if err == nil || !strings.Contains(err.Error(), "none.yaml does not exist") {
		t.Error(err)
	}
	circle := filepath.Join(dir, "circle.yaml")
	if err := os.Symlink("circle.yaml", circle); err != nil {
		t.Fatal(err)
	}
	units, err := New(Options{Paths: []string{dir}}).Read()
	if err != nil || len(units) != 1 || !units[0].Incomplete || units[0].Findings[0].Code != config.Unreadable || units[0].Findings[0].Hint == "" {
		t.Error(units, err)
	}
	if err := os.Remove(circle); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		t.Skip("root reads everything: files without permission are not tested")
	}
	path := filepath.Join(dir, "a.yaml")
	write(t, path, named("a"))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	units, err = New(Options{Paths: []string{dir}}).Read()
	if err != nil || len(units) != 1 || !units[0].Incomplete || units[0].Findings[0].Code != config.Unreadable {
		t.Error(units, err)
	}
}

// Of files that this program wrote none is empty on purpose.
func TestWrittenFilesAreNotEmpty(t *testing.T) {
	dir := t.TempDir()
	written := filepath.Join(dir, "applied")
	if err := os.MkdirAll(written, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "empty.yaml"), "# nothing yet\n")
	write(t, filepath.Join(written, "empty.yaml"), "")
	write(t, filepath.Join(written, "full.yaml"), named("a"))
	units, err := New(Options{Paths: []string{dir}, Written: written}).Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		damaged := u.Incomplete && len(u.Findings) == 1 && u.Findings[0].Code == config.Unreadable && u.Findings[0].Hint != ""
		if want := u.Name == filepath.Join(written, "empty.yaml"); damaged != want {
			t.Errorf("%+v", u)
		}
	}
}

// The tracker, step by step, in time of its own: what is believed when.
func TestTracker(t *testing.T) {
	content := map[string]string{}
	var readErr error
	vanishes := false
	tr := &tracker{namespace: "default", files: map[string]*tracked{}, read: func(path string) ([]byte, error) {
		if readErr != nil {
			return nil, readErr
		}
		text, ok := content[path]
		if !ok || vanishes {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}}
	now := time.Unix(0, 0)
	mtime := int64(0)
	step := func(after time.Duration, touched ...string) string {
		t.Helper()
		now = now.Add(after)
		l := &listing{files: map[string]entry{}}
		for path, text := range content {
			l.files[path] = entry{stamp: stamp{size: int64(len(text)), mtime: mtime}}
		}
		set := map[string]bool{}
		for _, p := range touched {
			set[p] = true
		}
		units, again := tr.step(now, l, set, now.Equal(time.Unix(0, 0)))
		var out []string
		for _, u := range units {
			out = append(out, describe(u))
		}
		return fmt.Sprint(out, " ", again)
	}
	put := func(text string) { content["f"] = text; mtime++ }
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	put(named("a", "b"))
	check("at the beginning everything is believed", step(0), "[a,b] 0s")
	check("nothing changed", step(time.Second), "[] 0s")
	put(named("a", "c"))
	check("a good change waits a moment", step(0), "[] 8ms")
	check("still waiting", step(5*time.Millisecond), "[] 3ms")
	check("then it is published", step(3*time.Millisecond), "[a,c] 0s")
	put("")
	check("an emptied file", step(0), "[] 40ms")
	put(named("a")[:30])
	check("half a file", step(2*time.Millisecond), "[] 40ms")
	put(named("a", "d"))
	check("the whole file", step(2*time.Millisecond), "[] 8ms")
	check("only that is published", step(8*time.Millisecond), "[a,d] 0s")
	delete(content, "f")
	check("moved away", step(0), "[] 40ms")
	put(named("a", "d"))
	check("and back: nothing happened", step(10*time.Millisecond), "[] 0s")
	put(named("a"))
	check("fewer objects", step(0), "[] 40ms")
	check("are believed later", step(40*time.Millisecond), "[a] 0s")
	content["f"] = strings.Replace(named("a"), "a}", "z}", 1)
	check("same size, same clock tick: only an event tells", step(0), "[] 0s")
	check("and it does", step(0, "f"), "[] 8ms")
	check("published", step(8*time.Millisecond), "[z] 0s")
	readErr = errors.New("input/output error")
	mtime++
	check("cannot be read", step(0), "[] 40ms")
	check("is said", step(40*time.Millisecond), "[?] 0s")
	readErr = nil
	mtime++
	check("and unsaid", step(0), "[] 8ms")
	check("published", step(8*time.Millisecond), "[z] 0s")
	put(named("z") + "---\na: b: c\n")
	check("broken", step(0), "[] 40ms")
	check("published as incomplete", step(40*time.Millisecond), "[z,?] 0s")
	delete(content, "f")
	check("removed", step(0), "[] 40ms")
	check("and again: it was there in between", step(39*time.Millisecond, "f"), "[] 40ms")
	vanishes = true
	content["f"] = ""
	check("listed, but gone when it is read", step(39*time.Millisecond), "[] 40ms")
	delete(content, "f")
	vanishes = false
	check("still", step(39*time.Millisecond), "[] 1ms")
	check("for good", step(1*time.Millisecond), "[gone] 0s")
	put(named("new"))
	delete(content, "f")
	content["g"] = named("g")
	check("a new file", step(0), "[] 8ms")
	delete(content, "g")
	check("gone before it was believed", step(1*time.Millisecond), "[] 40ms")
	check("was never there", step(40*time.Millisecond), "[] 0s")

	// Objects change their files.
	put(named("a"))
	content["g"] = named("b")
	check("two files", step(0), "[] 8ms")
	check("are there", step(8*time.Millisecond), "[a b] 0s")
	put(named("b"))
	check("the first is saved", step(0), "[] 8ms")
	content["g"] = named("a")
	check("then the second", step(3*time.Millisecond, "g"), "[] 5ms")
	check("the first waits", step(5*time.Millisecond), "[] 3ms")
	check("for it", step(3*time.Millisecond), "[b a] 0s")
	put(named("c")) // without b
	for i := range 28 {
		content["g"] = named("a") + fmt.Sprint("# ", i)
		if got := step(7*time.Millisecond, "g"); !strings.HasPrefix(got, "[] ") {
			t.Fatalf("after %d writes: %s", i+1, got)
		}
	}
	content["g"] = named("a") + "# never"
	check("that is enough", step(11*time.Millisecond, "g"), "[c] 8ms")
}
