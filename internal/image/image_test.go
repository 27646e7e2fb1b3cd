package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func layer(t *testing.T, files ...File) Layer {
	t.Helper()
	l, err := NewLayer("test", files...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listing shows a tar, one line an entry.
func listing(t *testing.T, data []byte) string {
	t.Helper()
	var b strings.Builder
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %o %d:%d %s %s%s\n", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, content)
	}
}

// Folders come before what is in them, whatever the order of the files.
func TestLayer(t *testing.T) {
	files := []File{
		{Path: "/usr/local/bin/tool", Mode: 0o755, Data: []byte("program")},
		{Path: "/bin/sh", Link: "/usr/local/bin/tool"},
		{Path: "/tmp/", Mode: 0o1777},
		{Path: "/usr-more", Data: []byte("x"), UID: 7, GID: 8},
	}
	want := `5 755 0:0 bin/ 
2 777 0:0 bin/sh /usr/local/bin/tool
5 1777 0:0 tmp/ 
5 755 0:0 usr/ 
0 644 7:8 usr-more x
5 755 0:0 usr/local/ 
5 755 0:0 usr/local/bin/ 
0 755 0:0 usr/local/bin/tool program
`
	l := layer(t, files...)
	if d := cmp.Diff(want, listing(t, l.tar)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	files[0], files[3] = files[3], files[0]
	if again := layer(t, files...); again.digest != l.digest {
		t.Error("the order of the files changes the layer")
	}
}

func TestLayerRefuses(t *testing.T) {
	for _, c := range []struct {
		files []File
		want  string
	}{
		{[]File{{Path: "etc/passwd"}}, "not an absolute path"},
		{[]File{{Path: "/"}}, "not an absolute path"},
		{[]File{{Path: "/a"}, {Path: "/b/../a"}}, "/a is there twice"},
		{[]File{{Path: "/a"}, {Path: "/a/b"}}, "/a is a file and a folder"},
	} {
		if _, err := NewLayer("test", c.files...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.files, err, c.want)
		}
	}
}

// A shared layer is written once, and the same images give the same bytes.
func TestWrite(t *testing.T) {
	base, more := layer(t, File{Path: "/a", Data: []byte("a")}), layer(t, File{Path: "/b", Data: []byte("b")})
	images := []Image{
		{Arch: "arm64", Created: time.Unix(1e9, 0), Config: Config{User: "1337:1337", Entrypoint: []string{"/a"}}, Layers: []Layer{base}, Tags: []string{"hub/one:1", "one:1"}},
		{Arch: "arm64", Created: time.Unix(1e9, 0), Layers: []Layer{base, more}, Tags: []string{"hub/two:1"}},
	}
	archive := func() []byte {
		var b bytes.Buffer
		if err := Write(&b, images...); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	data := archive()
	if !bytes.Equal(data, archive()) {
		t.Error("two archives of the same images differ")
	}
	entries := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if entries[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		if entries[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var index []manifest
	if err := json.Unmarshal(entries["manifest.json"], &index); err != nil {
		t.Fatal(err)
	}
	if len(index) != 2 || len(index[0].RepoTags) != 2 || len(index[1].Layers) != 2 || index[1].Layers[0] != index[0].Layers[0] {
		t.Errorf("manifest.json: %s", entries["manifest.json"])
	}
	for _, m := range index {
		var c struct {
			Architecture, OS string
			RootFS           struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		if err := json.Unmarshal(entries[m.Config], &c); err != nil {
			t.Fatal(err)
		}
		if m.Config != digest(entries[m.Config])+".json" || c.Architecture != "arm64" || c.OS != "linux" || len(c.RootFS.DiffIDs) != len(m.Layers) {
			t.Errorf("%s: %s", m.Config, entries[m.Config])
		}
		for i, l := range m.Layers {
			if id := "sha256:" + digest(entries[l]); id != c.RootFS.DiffIDs[i] {
				t.Errorf("layer %s has %s, the configuration says %s", l, id, c.RootFS.DiffIDs[i])
			}
		}
	}
	if err := Write(io.Discard, Image{Layers: []Layer{base}}); err == nil {
		t.Error("an image without a tag was written")
	}
}
