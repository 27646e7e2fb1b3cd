package bookinfo

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// externalTimeout is how long details v2 waits for the outside world.
const externalTimeout = 5 * time.Second

// isbn is an edition of the play that names Shakespeare as its only author.
const isbn = "0486424618"

// DetailsOptions configure Details. The zero value is version v1.
type DetailsOptions struct {
	// External makes it look the book up at Google Books (version v2) instead of
	// answering from memory.
	External bool

	// PlainText calls Google Books on port 80 and leaves TLS to the mesh.
	PlainText bool

	Client *http.Client // nil: NewClient()
	Log    *slog.Logger // nil: silent
}

type details struct {
	ID        int    `json:"id"`
	Author    string `json:"author"`
	Year      any    `json:"year"` // a number in v1, a date in v2
	Type      string `json:"type"`
	Pages     int    `json:"pages"`
	Publisher string `json:"publisher"`
	Language  string `json:"language"`
	ISBN10    string `json:"ISBN-10"`
	ISBN13    string `json:"ISBN-13"`
}

// Details serves GET /details/{id} and /health.
func Details(o DetailsOptions) http.Handler {
	if o.Client == nil {
		o.Client = NewClient()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, health{"Details is healthy"})
	})
	mux.HandleFunc("GET /details/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		if !o.External {
			writeJSON(w, http.StatusOK, details{
				ID: id, Author: "William Shakespeare", Year: 1595, Type: "paperback", Pages: 200,
				Publisher: "PublisherA", Language: "English", ISBN10: "1234567890", ISBN13: "123-1234567890",
			})
			return
		}
		d, err := googleBook(r, o)
		if err != nil {
			o.Log.Warn("no book details", "err", err)
			writeJSON(w, http.StatusBadGateway, failure{err.Error()})
			return
		}
		d.ID = id
		writeJSON(w, http.StatusOK, d)
	})
	return mux
}

func googleBook(r *http.Request, o DetailsOptions) (details, error) {
	url := "https://www.googleapis.com/books/v1/volumes?q=isbn:" + isbn
	if o.PlainText {
		url = "http" + url[len("https"):]
	}
	status, body, err := get(r.Context(), o.Client, url, "", forward(r), externalTimeout)
	if err != nil {
		return details{}, err
	}
	if status != http.StatusOK {
		return details{}, fmt.Errorf("calling www.googleapis.com: status %d", status)
	}
	return decodeBook(body)
}

// decodeBook reads a Google Books v1 "volumes" answer.
func decodeBook(body []byte) (details, error) {
	var answer struct {
		Items []struct {
			VolumeInfo struct {
				Authors             []string
				PublishedDate       string
				PageCount           int
				Publisher           string
				Language            string
				PrintType           string
				IndustryIdentifiers []struct{ Type, Identifier string }
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return details{}, fmt.Errorf("reading the answer of www.googleapis.com: %w", err)
	}
	if len(answer.Items) == 0 {
		return details{}, fmt.Errorf("reading the answer of www.googleapis.com: no book with ISBN %s", isbn)
	}
	book := answer.Items[0].VolumeInfo
	d := details{
		Author: "unknown", Year: book.PublishedDate, Type: "unknown", Pages: book.PageCount,
		Publisher: book.Publisher, Language: "unknown",
	}
	if len(book.Authors) > 0 {
		d.Author = book.Authors[0]
	}
	if book.PrintType == "BOOK" {
		d.Type = "paperback"
	}
	if book.Language == "en" {
		d.Language = "English"
	}
	for _, id := range book.IndustryIdentifiers {
		switch id.Type {
		case "ISBN_10":
			d.ISBN10 = id.Identifier
		case "ISBN_13":
			d.ISBN13 = id.Identifier
		}
	}
	return d, nil
}
