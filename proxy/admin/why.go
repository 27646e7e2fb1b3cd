package admin

import (
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
)

// lastRecords is how many failures are shown unless somebody says otherwise.
const lastRecords = 20

// handleWhy shows decision records: ?id=, ?last=.
func handleWhy(p Proxy) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := &observev1.RecordsRequest{Which: &observev1.RecordsRequest_LastErrors{LastErrors: lastRecords}}
		if id := r.FormValue("id"); id != "" {
			q.Which = &observev1.RecordsRequest_Id{Id: id}
		} else if v := r.FormValue("last"); v != "" {
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 {
				http.Error(w, "last must be a number: GET /why?last=20", http.StatusBadRequest)
				return
			}
			q.Which = &observev1.RecordsRequest_LastErrors{LastErrors: uint32(n)}
		}
		data, err := protojson.MarshalOptions{Multiline: true}.Marshal(p.Records(q))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(data, '\n'))
	}
}
