package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// believed is how long a file may be away before that is taken for meant: a little less
// than what config/source/file says.
const believed = 30 * time.Millisecond

// quickly makes changes that are to look like one. If the machine kept the writer from its
// work for so long that what was there in between was believed, and rightly, then what the
// callers saw of it, until the change is live, does not count.
func (l *load) quickly(t *testing.T, change func() error, live func()) {
	t.Helper()
	begin := time.Now()
	must(t, change())
	if took := time.Since(begin); took > believed {
		live()
		l.await(4)
		l.forget()
		t.Logf("a write took %v: what it showed meanwhile was right", took)
	}
	l.await(4)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// marked is a VirtualService by which a host answers /mark with a status.
func marked(host string, status int) string {
	return strings.ReplaceAll(strings.Replace(good, "210", fmt.Sprint(status), 1), "NAME", host)
}

// markedHosts makes Services for hosts. status asks one of them for its mark, and is waits
// until it has one; the load asks all of them, and fails if a mark is missing.
func markedHosts(m *mesh.Mesh, client *mesh.Workload, hosts ...string) (is func(host string, status int), startMarked func() *load) {
	var services []string
	for _, h := range hosts {
		services = append(services, "apiVersion: v1\nkind: Service\nmetadata: {name: "+h+"}\nspec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}\n")
	}
	m.Config("services.yaml", documents(services...))
	ask := func(host string) *mesh.Response { return client.Get("http://" + host + ":8080/mark") }
	is = func(host string, status int) {
		m.T.Helper()
		m.Eventually(fmt.Sprintf("%s has mark %d", host, status), func() error {
			if r := ask(host); r.Status != status {
				return fmt.Errorf("%v; findings are %+v", r, m.Findings())
			}
			return nil
		})
	}
	n := 0
	return is, func() *load {
		return startLoadOf(m.T, 1, time.Millisecond, func() *mesh.Response { n++; return ask(hosts[n%len(hosts)]) }, func(r *mesh.Response) error {
			if r.Status <= 200 || r.Status >= 300 {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	}
}

// errorsOf are the codes of error findings about a file, with their number.
func errorsOf(m *mesh.Mesh, file string) map[string]int {
	out := map[string]int{}
	for _, f := range m.Findings() {
		if f.Severity == "error" && filepath.Base(f.File) == file {
			out[f.Code]++
		}
	}
	return out
}

// Folders and files change hands in the ways that editors, version control and Kubernetes
// have, and nobody who calls sees anything but the old or the new.
func TestFilesAndFoldersChangeHandsUnseen(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	is, startMarked := markedHosts(m, client, "team", "mounted", "moved", "other")
	dir := filepath.Join(m.Dir, "config")
	beside := func(name string) string { return filepath.Join(m.Dir, name) }

	must(t, os.Mkdir(filepath.Join(dir, "team"), 0o700))
	m.WriteRaw("team/a.yaml", []byte(marked("team", 220)))
	volume := filepath.Join(dir, "volume")
	must(t, os.Mkdir(volume, 0o700))
	// fill is what the kubelet does with a new version of a ConfigMap, until the last step.
	fill := func(i int) (next string) {
		name := fmt.Sprintf("..version_%d", i)
		must(t, os.Mkdir(filepath.Join(volume, name), 0o700))
		must(t, os.WriteFile(filepath.Join(volume, name, "a.yaml"), []byte(marked("mounted", 230+i)), 0o600))
		next = filepath.Join(volume, "..data_tmp")
		must(t, os.Symlink(name, next))
		return next
	}
	must(t, os.Rename(fill(0), filepath.Join(volume, "..data")))
	must(t, os.Symlink("..data/a.yaml", filepath.Join(volume, "a.yaml")))
	m.WriteRaw("one.yaml", []byte(marked("moved", 250)))
	m.WriteRaw("two.yaml", []byte(marked("other", 250)))
	is("team", 220)
	is("mounted", 230)
	is("moved", 250)
	is("other", 250)
	load := startMarked()

	m.Run("a folder is replaced", func(t *testing.T) {
		must(t, os.Mkdir(beside("team-new"), 0o700))
		must(t, os.WriteFile(filepath.Join(beside("team-new"), "a.yaml"), []byte(marked("team", 221)), 0o600))
		load.quickly(t, func() error {
			return errors.Join(os.Rename(filepath.Join(dir, "team"), beside("team-old")), os.Rename(beside("team-new"), filepath.Join(dir, "team")))
		}, func() { is("team", 221) })
		is("team", 221)
		m.WriteRaw("team/a.yaml", []byte(marked("team", 222))) // the new one is watched, too
		is("team", 222)
	})
	m.Run("the link of a mounted ConfigMap is swapped", func(t *testing.T) {
		for i := range 5 {
			load.quickly(t, func() error {
				err := os.Rename(fill(i+1), filepath.Join(volume, "..data"))
				return errors.Join(err, os.RemoveAll(filepath.Join(volume, fmt.Sprintf("..version_%d", i))))
			}, func() { is("mounted", 231+i) })
			is("mounted", 231+i)
		}
	})
	m.Run("two objects change their files, which are saved together", func(t *testing.T) {
		files := []string{"one.yaml", "two.yaml"}
		for i := range 6 {
			slices.Reverse(files)
			load.quickly(t, func() error {
				one := os.WriteFile(filepath.Join(dir, files[0]), []byte(marked("moved", 251+i)), 0o600)
				return errors.Join(one, os.WriteFile(filepath.Join(dir, files[1]), []byte(marked("other", 251+i)), 0o600))
			}, func() { is("moved", 251+i); is("other", 251+i) })
			is("moved", 251+i)
			is("other", 251+i)
			m.Eventually("no file says it twice", func() error {
				if e := fmt.Sprint(errorsOf(m, files[0]), errorsOf(m, files[1])); e != "map[] map[]" {
					return errors.New(e)
				}
				return nil
			})
		}
	})
	m.Run("an object moves to another file, and its own is removed", func(t *testing.T) {
		load.quickly(t, func() error {
			one := os.WriteFile(filepath.Join(dir, "three.yaml"), []byte(documents(marked("moved", 260), marked("other", 260))), 0o600)
			return errors.Join(os.Remove(filepath.Join(dir, "one.yaml")), os.Remove(filepath.Join(dir, "two.yaml")), one)
		}, func() { is("moved", 260); is("other", 260) })
		is("moved", 260)
		is("other", 260)
	})
	m.Run("the whole folder is away for a while", func(t *testing.T) {
		must(t, os.Rename(dir, beside("away")))
		m.Eventually("that is said", func() error {
			if errorsOf(m, "config")["WEIR0001"] != 1 {
				return fmt.Errorf("findings are %+v", m.Findings())
			}
			return nil
		})
		load.await(10)
		must(t, os.WriteFile(filepath.Join(beside("away"), "team", "a.yaml"), []byte(marked("team", 223)), 0o600))
		must(t, os.Rename(beside("away"), dir))
		is("team", 223)
		m.WriteRaw("team/a.yaml", []byte(marked("team", 224)))
		is("team", 224)
	})
	load.stop(t)
	for _, f := range m.Findings() {
		if f.Severity == "error" {
			t.Errorf("at the end: finding %+v", f)
		}
	}
}

// What cannot be read stays in force as it was, also when the control plane starts again:
// a restart gives the same result as running on.
func TestWhatCannotBeReadStaysInForce(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	cases := []struct {
		host  string
		spoil func(path string) error
		code  string
		away  bool // the control plane is away when it happens
	}{
		{"forbidden", forbid, "WEIR0001", false},
		{"circle", circle, "WEIR0001", false},
		{"forbidden-meanwhile", forbid, "WEIR0001", true},
		{"circle-meanwhile", circle, "WEIR0001", true},
		{"broken-meanwhile", func(path string) error { return os.WriteFile(path, []byte("{[,"), 0o600) }, "WEIR0002", true},
		{"wrong-meanwhile", func(path string) error {
			return os.WriteFile(path, []byte(strings.Replace(marked("wrong-meanwhile", 299), "hosts:", "hots:", 1)), 0o600)
		}, "IST0106", true},
	}
	var hosts []string
	for _, c := range cases {
		hosts = append(hosts, c.host)
	}
	is, startMarked := markedHosts(m, client, append(hosts, "changed-meanwhile", "removed-meanwhile")...)
	path := func(host string) string { return filepath.Join(m.Dir, "config", host+".yaml") }
	for _, h := range append(hosts, "changed-meanwhile", "removed-meanwhile") {
		m.Write(h+".yaml", marked(h, 210))
	}
	m.Settle()
	load := startMarked()
	spoil := func(away bool) {
		t.Helper()
		for _, c := range cases {
			if c.away == away {
				must(t, c.spoil(path(c.host)))
			}
		}
	}
	said := func(away bool) {
		t.Helper()
		for _, c := range cases {
			if c.away && !away {
				continue
			}
			m.Eventually("the finding about "+c.host, func() error {
				if e := errorsOf(m, c.host+".yaml"); e[c.code] != 1 {
					return fmt.Errorf("errors are %v in %+v", e, m.Findings())
				}
				return nil
			})
			is(c.host, 210)
		}
	}
	spoil(false)
	said(false)
	load.stop(t)

	m.KillControl()
	spoil(true)
	m.WriteRaw("changed-meanwhile.yaml", []byte(marked("changed-meanwhile", 211)))
	must(t, os.Remove(path("removed-meanwhile")))
	m.StartControl()
	said(true)
	is("changed-meanwhile", 211)
	is("removed-meanwhile", 200)

	// A file that can be read again is in force; one that is removed takes with it what was
	// kept, and what was found.
	for i, c := range cases {
		must(t, os.Remove(path(c.host)))
		if i%2 == 0 {
			m.WriteRaw(c.host+".yaml", []byte(marked(c.host, 212)))
			is(c.host, 212)
		} else {
			is(c.host, 200)
		}
	}
	m.Eventually("nothing is found any more", func() error {
		for _, c := range cases {
			if e := errorsOf(m, c.host+".yaml"); len(e) != 0 {
				return fmt.Errorf("%s: %v", c.host, e)
			}
		}
		return nil
	})
}

// forbid makes a file that cannot be read; for root, whom no permission stops, one whose
// reading fails.
func forbid(path string) error {
	if os.Geteuid() != 0 {
		return os.Chmod(path, 0)
	}
	return errors.Join(os.Remove(path), os.Symlink("/proc/self/mem", path))
}

// circle makes a link that leads to itself.
func circle(path string) error { return errors.Join(os.Remove(path), os.Symlink(path, path)) }

// A file that is removed, replaced and half written while it is read never shows a state
// that was not meant.
func TestAFileUnderTheWritersHandsShowsNoHalves(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	version := func(i int) []byte {
		return []byte(strings.Replace(marked("echo", 210), "status: 210", fmt.Sprintf("status: 210, body: {string: %q}", fmt.Sprint(i)), 1))
	}
	m.WriteRaw("subject.yaml", version(-1))
	path := filepath.Join(m.Dir, "config", "subject.yaml")
	live := func(i int) {
		t.Helper()
		m.Eventually("what was written last is in force", func() error {
			if r := client.Get("http://echo:8080/mark"); string(r.Body) != fmt.Sprint(i) {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	}
	live(-1)
	load := startLoadOf(t, 2, 0, func() *mesh.Response { return client.Get("http://echo:8080/mark") }, func(r *mesh.Response) error {
		if r.Status != 210 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	const writes = 60
	for i := range writes {
		text := version(i)
		load.quickly(t, func() error {
			switch i % 4 {
			case 0: // an editor that moves the old one away
				return errors.Join(os.Rename(path, path+"~"), os.WriteFile(path, text, 0o600))
			case 1: // truncated, then written in two parts
				f, err := os.Create(path)
				if err != nil {
					return err
				}
				half := bytes.Index(text, []byte("  http:"))
				_, err1 := f.Write(text[:half])
				_, err2 := f.Write(text[half:])
				return errors.Join(err1, err2, f.Close())
			case 2: // removed and made anew
				return errors.Join(os.Remove(path), os.WriteFile(path, text, 0o600))
			}
			return errors.Join(os.WriteFile(path+".tmp", text, 0o600), os.Rename(path+".tmp", path))
		}, func() { live(i) })
	}
	live(writes - 1)
	load.stop(t)
}
