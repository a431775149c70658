// Part of the Orthanc plug-in of dicom-qa-node (GNU Affero General Public License, version 3 or later; see LICENSE).
// A button above "Interact" on the page of a series opens the panel. Text of the server is only ever set as text.

(function () {
  "use strict";

  var PREFIX = "%PREFIX%";
  var COLOURS = { "diagnostic": "#1b6e3c", "limited": "#8a5a00", "non-diagnostic": "#a3261b" };
  var WORDS = {
    "diagnostic": "Diagnostic quality",
    "limited": "Limited quality",
    "non-diagnostic": "Non-diagnostic quality",
    "not rated": "Not rated"
  };

  function line(label, value) {
    var row = $("<p>").css("margin", "4px 0");
    row.append($("<strong>").text(label + " "));
    return row.append($("<span>").text(value));
  }

  function panel(uuid, found) {
    var box = $("<div>").attr({ "id": "image-quality-panel", "role": "region", "aria-label": "Image quality" });
    box.css({ "background": "#fff", "color": "#222", "border": "1px solid #bbb", "border-radius": "8px", "padding": "10px",
              "margin": "0 0 12px", "white-space": "normal" });
    box.append(line("Score", found.Score + (found.Score === "not rated" ? "" : " of 4")));
    box.append(line("Grade", WORDS[found.Grade] || found.Grade));
    if (found.Sentence) {
      box.append($("<p>").css("margin", "4px 0").text(found.Sentence));
    }
    if (found.page) {
      var link = $("<a>").attr({ "href": "../series/" + uuid + "/attachments/" + PREFIX + "Page/data", "target": "_blank",
                                 "data-ajax": "false" });
      box.append($("<p>").css("margin", "4px 0").append(link.text("Summary page (PDF)")));
    }
    return box;
  }

  function show(uuid, found) {
    $("#image-quality-button, #image-quality-panel").remove();
    if (!found.Score) {
      return;
    }
    var rated = found.Score !== "not rated";
    var text = rated ? "Quality " + found.Score + ": " + (WORDS[found.Grade] || found.Grade) : "Quality: not rated";
    var button = $("<button>").attr({ "id": "image-quality-button", "type": "button", "data-role": "none",
                                      "aria-expanded": "false" });
    button.text(text).css({ "width": "100%", "padding": "10px", "margin": "0 0 8px", "border": "0", "border-radius": "8px",
                            "font-weight": "bold", "cursor": "pointer", "color": "#fff",
                            "background": COLOURS[found.Grade] || "#4a4a4a" });
    var box = panel(uuid, found).hide();
    button.click(function () {
      box.toggle();
      button.attr("aria-expanded", box.is(":visible") ? "true" : "false");
    });
    $("#series-info").after(button, box);
  }

  function refresh() {
    var data = $.mobile.pageData;
    $("#image-quality-button, #image-quality-panel").remove();
    if (!data || !/^[0-9a-f-]{44}$/.test(data.uuid)) {
      return;
    }
    var uuid = data.uuid;
    $.getJSON("../series/" + uuid + "/metadata?expand", function (metadata) {
      var found = {};
      $.each(["Score", "Grade", "Sentence"], function (_, name) {
        found[name] = String(metadata[PREFIX + name] || "");
      });
      $.getJSON("../series/" + uuid + "/attachments", function (attachments) {
        found.page = $.inArray(PREFIX + "Page", attachments) >= 0;
        // Another page may have been opened meanwhile.
        if ($.mobile.pageData && $.mobile.pageData.uuid === uuid) {
          show(uuid, found);
        }
      });
    });
  }

  $("#series").live("pagebeforeshow", refresh);
})();
